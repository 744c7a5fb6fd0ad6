"""What does not leave the machine."""

import json
import shutil

import pytest

from hf_ssl.evaluation.results import read_results, write_results
from hf_ssl.hub.repository.validate import validate_repository


@pytest.fixture
def folder(repositories, tmp_path):
    return shutil.copytree(repositories["mae-mean"], tmp_path / "model")


def test_what_was_assembled_is_valid(folder):
    # Under another name than the one on its card.
    with pytest.raises(ValueError, match="is not the card that its results.json gives"):
        validate_repository(folder)
    validate_repository(folder.rename(folder.with_name("mae-mean-tiny")))


@pytest.fixture
def repository(folder):
    return folder.rename(folder.with_name("mae-mean-tiny"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pretraining/optimizer.pt", "notes.pkl"])
def test_pickles_are_refused_with_the_reason(repository, name):
    (repository / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name}: pickles run code when they are read.*hf-ssl import"):
        validate_repository(repository)


@pytest.mark.parametrize("name", ["modeling_evil.py", "pretraining/modeling.py", "pictures/page.html", ".env"])
def test_other_files_are_refused(repository, name):
    (repository / name).write_text("")
    with pytest.raises(ValueError, match=f"holds {name}, which no repository of hf_ssl has"):
        validate_repository(repository)


def test_a_link_is_refused(repository, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (repository / "pictures" / "secret.png").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="secret.png, a link that may lead anywhere"):
        validate_repository(repository)


@pytest.mark.parametrize("name", ["model.safetensors", "pretraining/config.json", "results.json"])
def test_a_missing_file_is_named(repository, name):
    (repository / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}; write the folder anew with `hf-ssl card"):
        validate_repository(repository)


@pytest.mark.parametrize("name", ["model.safetensors", "pretraining/model.safetensors"])
def test_weights_that_were_cut_are_refused(repository, name):
    content = (repository / name).read_bytes()
    (repository / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name}, which is no complete safetensors file"):
        validate_repository(repository)


def test_an_edited_card_is_not_published(repository):
    card = repository / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("45.7%", "95.7%"), encoding="utf-8")
    with pytest.raises(ValueError, match="is not the card that its results.json gives"):
        validate_repository(repository)


@pytest.mark.parametrize("token", ["hf_" + "a1B2" * 8, "secretOfMine"])
def test_a_token_is_not_published(repository, token, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    config = json.loads((repository / "config.json").read_text(encoding="utf-8"))
    (repository / "config.json").write_text(json.dumps({**config, "auth": token}), encoding="utf-8")
    with pytest.raises(ValueError, match="config.json, which has an access token in it") as raised:
        validate_repository(repository)
    assert token not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda config: config.update(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
        (lambda config: config.update(architecture="vit_base_patch16_224"), "architecture"),
        (lambda config: config["model_args"].update(checkpoint_path="/etc/weights.pth"), "model_args"),
        (lambda config: config["pretrained_cfg"].update(file="/etc/weights.pth"), "file"),
        (lambda config: config["pretrained_cfg"].update(url="http://127.0.0.1/weights.pth"), "url"),
        (lambda config: config["label_names"].reverse(), "label_names"),
    ],
)
def test_a_config_that_names_files_or_code_is_refused(repository, change, key):
    config = json.loads((repository / "config.json").read_text(encoding="utf-8"))
    change(config)
    (repository / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"has the key '{key}' as hf_ssl does not write it"):
        validate_repository(repository)


def test_a_run_that_was_not_evaluated_is_not_published(repository):
    results = read_results(repository / "results.json")
    del results["evaluation"]
    write_results(repository / "results.json", results)
    with pytest.raises(ValueError, match="without an evaluation; run `hf-ssl evaluate`"):
        validate_repository(repository)
