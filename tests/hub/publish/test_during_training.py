"""A run that publishes itself: a tag for each state, training that goes on when the Hub does not answer."""

import json
import math

import pytest
from safetensors.torch import load

from hf_ssl.evaluation.results import find_result, read_results
from hf_ssl.hub.publish import publish as publish_module
from hf_ssl.hub.publish.client import HubError
from hf_ssl.hub.publish.during_training import TrainingPublisher
from hf_ssl.training.arguments import parse_pretrain
from hf_ssl.training.loop import pretrain

REPO = "org/run"
MODEL = {"depth": 1, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What opens every door and runs the card's code is tested in test_publish.py, and takes seconds."""
    monkeypatch.setattr(publish_module, "check_here", lambda folder, report: None)
    monkeypatch.setattr(publish_module, "run_code_blocks", lambda blocks, folder, environment: None)


def arguments_of(run, data, *more):
    argv = ["--config", "mae_demo", "--output_dir", str(run), "--dataset", str(data), "--batch_size", "8"]
    argv += ["--epochs", "3", "--warmup_epochs", "0", "--mixed_precision", "no", "--push_to_hub", REPO]
    argv += ["--push_epochs", "1", "--backbone_kwargs", json.dumps(MODEL), "--decoder_num_layers", "1"]
    return parse_pretrain([*argv, "--image_size", "16", "--patch_size", "8", *more])


def train(run, data, said, *more):
    recipe, arguments, config = arguments_of(run, data, *more)
    return pretrain(recipe, arguments, config, "hf-ssl pretrain", TrainingPublisher(arguments, said.append))


def test_each_epoch_is_a_tag_with_its_result_in_the_table(hub, tmp_path, texture_folder):
    said = []
    run = train(tmp_path / "run", texture_folder, said)
    repository = hub.repository("model", REPO)
    assert list(repository.tags) == ["epoch-1", "epoch-2", "epoch-3"]

    final = read_results(run / "results.json")
    assert [entry["tag"] for entry in final["checkpoints"]] == list(repository.tags)
    assert final["checkpoints"][-1]["accuracy"] == find_result(final, "pretrained")["accuracy"]
    weights = []
    for number, tag in enumerate(repository.tags, start=1):
        files = repository.files(tag)
        results = json.loads(files["results.json"])
        assert results["pretraining"]["epochs"] == number
        assert results["checkpoints"] == final["checkpoints"][:number]
        card = files["README.md"].decode()
        assert [f"`epoch-{epoch}`" in card for epoch in (1, 2, 3)] == [epoch <= number for epoch in (1, 2, 3)]
        weights.append(load(files["pretraining/model.safetensors"])["decoder_pred.weight"])
    assert not weights[0].equal(weights[1]) and not weights[1].equal(weights[2])
    # The weights of the states before the last are on the Hub; here they would only take space.
    assert not list((run / "snapshots").rglob("*.safetensors")) and (run / "pretraining/model.safetensors").is_file()
    assert "push_to_hub" not in (run / "recipe.yaml").read_text()


def test_publishing_does_not_change_the_training(hub, tmp_path, texture_folder):
    run = train(tmp_path / "published", texture_folder, [])
    recipe, arguments, config = arguments_of(tmp_path / "alone", texture_folder)
    alone = pretrain(recipe, arguments, config, "hf-ssl pretrain")
    same = [(folder / "pretraining" / "model.safetensors").read_bytes() for folder in (run, alone)]
    assert same[0] == same[1]


def test_training_goes_on_without_the_hub_and_says_what_to_do(hub, tmp_path, texture_folder):
    said = []
    hub.fail("POST", "/commit/", status=500, times=4)  # the first state, and no more
    run = train(tmp_path / "run", texture_folder, said)
    [warning] = [line for line in said if line.startswith("warning")]
    [kept] = [path.parent.parent for path in (run / "snapshots").glob("*/pretraining/model.safetensors")]
    assert f"hf-ssl publish {kept} --repo_id {REPO}" in warning
    assert list(hub.repository("model", REPO).tags) == ["epoch-2", "epoch-3"]
    # A tag that is not there is not on the card either.
    assert [entry["tag"] for entry in read_results(run / "results.json")["checkpoints"]] == ["epoch-2", "epoch-3"]


def test_the_last_state_fails_with_the_run_complete(hub, tmp_path, texture_folder):
    hub.fail("POST", "/commit/", status=500, times=math.inf)
    with pytest.raises(HubError, match="The run is complete in .*publish it later with `hf-ssl publish"):
        train(tmp_path / "run", texture_folder, [], "--push_epochs", "9")
    assert find_result(read_results(tmp_path / "run" / "results.json"), "pretrained")
    assert (tmp_path / "run" / "pretraining" / "model.safetensors").is_file()


def test_what_cannot_be_published_fails_before_the_training(hub, tmp_path, texture_folder, monkeypatch):
    hub.add_repository("model", REPO).commit({"thesis.pdf": b"mine"}, "a thesis")
    with pytest.raises(FileExistsError, match="was not made by hf_ssl"):
        train(tmp_path / "run", texture_folder, [])
    with pytest.raises(ValueError, match="label_column"):
        train(tmp_path / "run", texture_folder, [], "--push_to_hub", "org/other", "--label_column", "nothing")
    used = hub.add_repository("model", "org/used")
    used.tags["epoch-1"] = used.branches["main"]
    with pytest.raises(FileExistsError, match="org/used has the tag 'epoch-1' of another run"):
        train(tmp_path / "run", texture_folder, [], "--push_to_hub", "org/used")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="There is no token"):
        train(tmp_path / "run", texture_folder, [])
    assert not (tmp_path / "run").exists()
