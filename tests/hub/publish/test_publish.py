"""A run to the Hub on loopback and back: nothing is said to be published before it was read back."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, snapshot_download

from hf_ssl.evaluation.results import read_results
from hf_ssl.hub.card.code_blocks import CardCodeError
from hf_ssl.hub.publish import publish as module
from hf_ssl.hub.publish.client import HubError
from hf_ssl.hub.publish.publish import publish

REPO = "org/tiny"


def quick(monkeypatch):
    """Leave out what takes seconds; the round trip has it all."""
    monkeypatch.setattr(module, "check_here", lambda folder, report: None)
    monkeypatch.setattr(module, "run_code_blocks", lambda blocks, folder, environment: None)


def only_looked(hub):
    """Whether the Hub was asked, and told nothing."""
    return hub.requests and all(method in ("GET", "HEAD") for method, _ in hub.requests)


def commits(hub):
    return list(hub.repository("model", REPO).commits)


@pytest.mark.parametrize("kind", ["simclr", "mae-mean"])
def test_the_round_trip(hub, runs, kind, tmp_path):
    said = []
    published = publish(runs[kind], REPO, report=said.append)

    repository = hub.repository("model", REPO)
    assert published.tag == "v1" and repository.tags["v1"] == published.revision == commits(hub)[-1]
    assert len(commits(hub)) == 2 and published.url == f"{hub.url}/{REPO}"
    assert "4 code blocks of the card run on the folder" in said
    assert "4 code blocks of the card run on the download" in said

    downloaded = Path(snapshot_download(REPO, revision="v1", local_dir=tmp_path / "downloaded"))
    assert (downloaded / "model.safetensors").read_bytes() == repository.files("v1")["model.safetensors"]
    card = ModelCard.load(downloaded / "README.md")
    assert f'pipeline("image-classification", model="{REPO}")' in card.text
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True, num_classes=0)' in card.text
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    [row] = [
        row
        for row in read_results(runs[kind] / "results.json")["evaluation"]["results"]
        if row["encoder"] == "pretrained" and row["classifier"] == "linear_probe"
    ]
    assert measured["Accuracy (linear probe)"] == row["accuracy"]
    assert measured["Macro F1 (linear probe)"] == row["macro_f1"]
    assert not hub.unknown


def test_a_dry_run_asks_nobody(hub, runs, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(module, "run_code_blocks", lambda blocks, folder, environment: None)
    said = []
    assert publish(runs["simclr"], REPO, dry_run=True, report=said.append) is None
    assert hub.requests == [] and "nothing was sent" in said[-1]


def test_a_repository_folder_is_published_as_its_run_is(hub, runs, repositories, monkeypatch):
    quick(monkeypatch)
    first = publish(runs["mae-cls"], REPO)
    assert publish(repositories["mae-cls"], REPO).revision == first.revision
    assert set(hub.repository("model", REPO).tags) == {"v1", "v2"} and len(commits(hub)) == 2


def test_the_folder_given_is_not_changed(hub, repositories, monkeypatch):
    quick(monkeypatch)
    before = {path: path.read_bytes() for path in repositories["simclr"].rglob("*") if path.is_file()}
    publish(repositories["simclr"], REPO)
    assert {path: path.read_bytes() for path in repositories["simclr"].rglob("*") if path.is_file()} == before


def test_a_card_whose_code_fails_is_not_pushed(hub, runs, monkeypatch):
    monkeypatch.setattr(
        module, "render_code_blocks", lambda folder, repo_id=None: ["1 + 1", "from timm import nothing"]
    )
    with pytest.raises(ValueError, match="block 2 of README.md: ImportError: cannot import name 'nothing'"):
        publish(runs["simclr"], REPO)
    assert only_looked(hub)


def test_a_door_that_does_not_open_is_not_pushed(hub, repositories, tmp_path):
    folder = shutil.copytree(repositories["simclr"], tmp_path / "simclr-tiny")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "resnet34"}), encoding="utf-8")
    with pytest.raises(ValueError, match="tiny"):
        publish(folder, REPO)
    assert only_looked(hub)


def test_what_fails_on_the_download_gets_no_tag(hub, runs, monkeypatch):
    quick(monkeypatch)

    def fail(blocks, folder, environment):
        raise CardCodeError("The card's code does not run (block 1).")

    monkeypatch.setattr(module, "run_code_blocks", fail)
    with pytest.raises(HubError, match="block 1.*stays without a tag; look into it"):
        publish(runs["simclr"], REPO)
    assert not hub.repository("model", REPO).tags


def test_an_interruption_after_the_upload_says_what_is_there(hub, runs, monkeypatch):
    quick(monkeypatch)

    def interrupt(blocks, folder, environment):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_code_blocks", interrupt)
    with pytest.raises(KeyboardInterrupt, match="The commit .* of org/tiny stays without a tag"):
        publish(runs["simclr"], REPO)
    assert not hub.repository("model", REPO).tags


def test_a_server_that_never_tags(hub, runs, monkeypatch):
    quick(monkeypatch)
    hub.fail("POST", "/tag/", status=500, times=100)
    with pytest.raises(HubError, match="tag org/tiny as v1.*stays without a tag"):
        publish(runs["simclr"], REPO)


def test_what_comes_back_differently_gets_no_tag(hub, runs, monkeypatch):
    quick(monkeypatch)
    download = module.snapshot_download

    def garble(*arguments, **keywords):
        folder = Path(download(*arguments, **keywords))
        (folder / "config.json").unlink()
        (folder / "config.json").write_text("{}")
        return str(folder)

    monkeypatch.setattr(module, "snapshot_download", garble)
    with pytest.raises(HubError, match=r"config.json came back from the Hub differently.*without a tag"):
        publish(runs["simclr"], REPO)
    assert not hub.repository("model", REPO).tags


def test_tags(hub, runs, monkeypatch):
    quick(monkeypatch)
    assert publish(runs["simclr"], REPO, tag="best").tag == "best"
    with pytest.raises(FileExistsError, match="org/tiny has a tag 'best' already"):
        publish(runs["mae-mean"], REPO, tag="best")
    assert len(commits(hub)) == 2
    with pytest.raises(ValueError, match="'a b' is no name for a tag"):
        publish(runs["mae-mean"], REPO, tag="a b")
    assert publish(runs["mae-mean"], REPO).tag == "v1"
    assert hub.repository("model", REPO).tags["best"] == commits(hub)[1]


@pytest.mark.parametrize(
    "what", ["GET /api/models/org/tiny/refs", "GET /revision/", "GET /resolve/", "HEAD /resolve/", "POST /tag/"]
)
def test_500_twice_and_then_it_works(hub, runs, monkeypatch, what):
    quick(monkeypatch)
    hub.fail(*what.split(" "), status=500, times=2)
    published = publish(runs["simclr"], REPO)
    assert hub.repository("model", REPO).tags == {"v1": published.revision}


def test_what_cannot_be_written_is_said_before_anything_takes_time(hub, runs, monkeypatch):
    monkeypatch.setattr(module, "check_here", lambda folder, report: pytest.fail("it took time"))
    hub.add_repository("model", REPO).commit({"thesis.pdf": b"mine"}, "a thesis")
    with pytest.raises(FileExistsError, match="was not made by hf_ssl"):
        publish(runs["simclr"], REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="There is no token"):
        publish(runs["simclr"], REPO)


def test_a_folder_that_is_neither(tmp_path, hub):
    with pytest.raises(FileNotFoundError, match="is neither a run nor a repository folder; give what"):
        publish(tmp_path, REPO)


def test_somebody_else_s_results_are_not_replaced(hub, runs, monkeypatch):
    quick(monkeypatch)
    theirs = {"README.md": b"# mine", "config.json": b"{}", "model.safetensors": b"w", "results.json": b'{"mmlu": 1}'}
    hub.add_repository("model", REPO).commit(theirs, "theirs")
    with pytest.raises(FileExistsError, match="its results.json is another one"):
        publish(runs["simclr"], REPO)
    assert len(commits(hub)) == 2


def test_a_link_in_a_run_is_not_followed(hub, runs, tmp_path):
    run = shutil.copytree(runs["simclr"], tmp_path / "run")
    (tmp_path / "secret").write_text("secret")
    (run / "pictures" / "holiday.png").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="holiday.png, a link that may lead anywhere"):
        publish(run, REPO, dry_run=True)


@pytest.mark.parametrize("tag", ["main", "HEAD", "a..b", "v1.", "v1.lock", "a b", "-x"])
def test_a_tag_s_name_is_checked_first(hub, runs, tag):
    with pytest.raises(ValueError, match="is no name for a tag"):
        publish(runs["simclr"], REPO, tag=tag, dry_run=True)
    assert hub.requests == []


def test_a_tag_that_somebody_else_made_meanwhile_is_not_called_ours(hub, runs, monkeypatch):
    quick(monkeypatch)

    def tag_another(*arguments, **keywords):
        hub.repository("model", REPO).tags["v1"] = commits(hub)[0]

    monkeypatch.setattr(module, "read_back", tag_another)
    with pytest.raises(HubError, match="'v1' was given to another commit meanwhile"):
        publish(runs["simclr"], REPO)
