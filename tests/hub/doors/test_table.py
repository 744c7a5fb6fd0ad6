import contextlib
import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch
import transformers
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.utils import logging

import hf_ssl
from hf_ssl.hub.doors.page import own_lines
from hf_ssl.hub.doors.stock import STOCK_DOORS, image_processor, parse_repository, scores_by_name
from hf_ssl.hub.doors.table import EVALUATION_VIEW, OWN_DOORS, check_doors, doors_table, make_picture

DOORS = {
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModel, pretraining/",
    "…ForPreTraining, pretraining/",
    "pipeline, image-classification",
    "pipeline, image-feature-extraction",
    "timm",
    "timm, num_classes=0",
}
STOCK_NAMES = ("AutoImageProcessor", "AutoModel", "AutoModelForImageClassification", "pipeline")


def test_all_doors_give_the_same(repository, name):
    rows = check_doors(repository)
    maps = {"timm, features_only=True"} if name == "simclr" else set()
    assert {row.door for row in rows} == DOORS | maps | {EVALUATION_VIEW}
    judged = [row for row in rows if row.tolerance is not None]
    assert all(row.max_difference <= row.tolerance for row in judged)
    assert all(row.tolerance == 1e-4 for row in rows if row.door != EVALUATION_VIEW)
    assert [row.what for row in rows if row.tolerance is None] == ["features of these pixels"]


def test_a_picture_that_lies_on_its_side_is_put_upright_for_every_door(repositories, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    make_picture().save(tmp_path / "picture.jpg", exif=exif)
    check_doors(repositories["simclr"], tmp_path / "picture.jpg")


def test_a_noisy_picture_stays_within_the_tolerance_of_two_resizers(repositories, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    check_doors(repositories["mae-mean"], tmp_path / "picture.png")


def test_the_verbosity_of_transformers_comes_back(repositories):
    before = logging.get_verbosity()
    check_doors(repositories["simclr"])
    assert logging.get_verbosity() == before < logging.ERROR


@pytest.fixture
def folder(repositories, tmp_path):
    return shutil.copytree(repositories["simclr"], tmp_path / "model")


def change_config(folder, section=None, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if section is None else config[section]).update(changes)
    path.write_text(json.dumps(config))


def change_weights(folder, change, file="model.safetensors"):
    weights = load_file(folder / file)
    changed = {name: change(name, weight) for name, weight in weights.items()}
    save_file({name: weight.contiguous() for name, weight in changed.items() if weight is not None}, folder / file)


def round_to_half(name, weight):
    return weight.half().float() if weight.is_floating_point() and not name.startswith("fc.") else weight


TAMPERINGS = {
    "an encoder in half precision": (
        lambda folder: change_weights(folder, round_to_half),
        "'AutoModel' .* differs by .* (features)",
    ),
    "an encoder that is not finite": (
        lambda folder: change_weights(
            folder, lambda name, weight: weight * float("nan") if "conv" in name else weight
        ),
        "'AutoModel' .* differs by nan (features)",
    ),
    "another encoder in pretraining/": (
        lambda folder: change_weights(
            folder, lambda name, weight: weight * 1.01 if "conv" in name else weight, "pretraining/model.safetensors"
        ),
        "'AutoModel' .* differs by .* (features)",
    ),
    "another architecture": (
        lambda folder: change_config(folder, architecture="no_such_model"),
        "'timm' .* does not open .*no_such_model",
    ),
    "no head": (
        lambda folder: change_weights(folder, lambda name, weight: None if name.startswith("fc.") else weight),
        "'AutoModelForImageClassification' .* does not open .*fc.weight",
    ),
    "a head of fewer classes": (
        lambda folder: change_weights(folder, lambda name, weight: weight[:5] if name.startswith("fc.") else weight),
        "'AutoModelForImageClassification' .* does not open .*size mismatch",
    ),
    "fewer names than classes": (
        lambda folder: change_config(folder, label_names=["a", "b", "c", "d", "e"]),
        "'pipeline, image-classification' .* shape (6,), where (5,) is due",
    ),
    "another mean": (
        lambda folder: change_config(folder, "pretrained_cfg", mean=[0.4, 0.5, 0.61]),
        "'AutoImageProcessor, evaluation view' .* differs by 0.01 (mean and std)",
    ),
    "another crop": (
        lambda folder: change_config(folder, "pretrained_cfg", crop_pct=1.0),
        "'AutoImageProcessor, evaluation view' .* (pixels, in levels of 255)",
    ),
    "another size": (
        lambda folder: change_config(folder, "pretrained_cfg", input_size=[3, 48, 48]),
        "'AutoImageProcessor, evaluation view' .* pixels of shape (1, 3, 48, 48), where (1, 3, 32, 32)",
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_was_tampered_with_fails_at_a_door(folder, tampering):
    tamper, message = TAMPERINGS[tampering]
    tamper(folder)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")) as failure:
        check_doors(folder)
    assert "\n" not in str(failure.value)
    assert str(failure.value).endswith("; write the repository anew with `hf-ssl card`.")


@pytest.mark.parametrize("key", ["hf_hub_filename", "hf_hub_id", "file", "url", "source"])
def test_a_config_that_names_other_weights_is_not_followed(folder, key):
    change_config(folder, "pretrained_cfg", **{key: "evil.bin"})
    with pytest.raises(ValueError, match=f"has the key '{key}' as hf_ssl does not write it"):
        check_doors(folder)


def test_code_that_a_repository_brings_along_is_not_run(folder, tmp_path):
    for part in (folder, folder / "pretraining"):
        (part / "brought.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Brought:\n    pass\n")
        config = json.loads((part / "config.json").read_text())
        names = ("AutoConfig", "AutoImageProcessor", "AutoModel", "AutoModelForImageClassification")
        config["auto_map"] = {name: "brought.Brought" for name in names}
        (part / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(ValueError):
        check_doors(folder)
    assert not (tmp_path / "ran").exists()


def test_pickles_are_not_read(folder):
    weights = folder / "pretraining" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="'AutoModel, pretraining/' .* does not open .*pickle"):
        check_doors(folder)


def test_two_classes_may_share_a_name(folder):
    change_config(folder, label_names=["crane", "dog", "crane", "cat", "cow", "ant"])
    check_doors(folder)
    torch.testing.assert_close(
        scores_by_name(["crane", "dog", "crane"], [("dog", 0.5), ("crane", 0.2), ("crane", 0.3)]),
        torch.tensor([0.5, 0.5]),
    )


def test_a_folder_that_is_no_repository_says_so(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks model.safetensors"):
        check_doors(folder)
    with pytest.raises(FileNotFoundError, match="lacks results.json"):
        check_doors(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder '.*nowhere'"):
        check_doors(tmp_path / "nowhere")


def test_a_repository_that_the_hub_lacks_says_so(hub):
    with pytest.raises(OSError, match="no such repository.*results.json of org/nowhere at v1") as failure:
        check_doors("org/nowhere@v1")
    assert "\n" not in str(failure.value)


def test_a_hub_that_fails_for_good_says_what_to_do(hub):
    hub.fail("HEAD", "/results.json", status=503, times=100)
    with pytest.raises(
        OSError, match="download results.json of org/name at main.* try the same command again"
    ) as failure:
        check_doors("org/name")
    assert "\n" not in str(failure.value)


@pytest.fixture
def published(hub, repository, name, tmp_path):
    """A repository on the Hub under the tag v1, whose main branch has another encoder."""
    folder = shutil.copytree(repository, tmp_path / "model")
    repo_id, api = f"org/{name}-tiny", HfApi()
    api.create_repo(repo_id)
    api.upload_folder(folder_path=folder, repo_id=repo_id)
    api.create_tag(repo_id, tag="v1")
    change_weights(folder, lambda name, weight: weight * 2 if weight.ndim == 4 else weight)
    api.upload_folder(folder_path=folder, repo_id=repo_id)
    return repo_id


def test_a_download_gives_what_the_folder_gives(hub, published, repository):
    """Every door opens the revision that it was asked for: on the main branch they differ."""
    hub.fail("HEAD", "/results.json", status=500, times=2)
    downloaded, here = check_doors(f"{published}@v1"), check_doors(repository)
    assert [(row.door, row.what, row.tolerance) for row in downloaded] == [
        (row.door, row.what, row.tolerance) for row in here
    ]
    # Not to the bit: where memory happens to lie can change the order of a sum.
    differences = [row.max_difference for row in here]
    assert [row.max_difference for row in downloaded] == pytest.approx(differences, rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="'AutoModel' .* differs"):
        check_doors(published)


@pytest.mark.parametrize("door", [*STOCK_DOORS, *OWN_DOORS], ids=lambda door: door.name)
def test_the_line_of_code_in_the_docs_opens_the_door(repository, door):
    picture = make_picture()
    model_class = json.loads((repository / "pretraining" / "config.json").read_text())["architectures"][0]
    [line] = [line for line in own_lines(door.line) if "ForPreTraining" not in line or model_class in line]
    names = {name: getattr(transformers, name) for name in STOCK_NAMES} | {model_class: getattr(hf_ssl, model_class)}
    with torch.no_grad():
        expected = door.open(parse_repository(str(repository)), picture)
        if expected is None:
            return
        names |= {
            "timm": timm,
            "picture": picture,
            "pixels": image_processor(parse_repository(str(repository)), picture),
        }
        given = eval(line.replace("hf-hub:", "local-dir:").replace("org/name", str(repository)), names)
    if door.gives == "scores":
        given = torch.tensor([answer["score"] for answer in given])
        expected = expected.sort(descending=True).values[: len(given)]
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_the_table_has_a_column_for_each_repository(repositories):
    table = doors_table([str(repositories["simclr"]), str(repositories["mae-cls"])])
    header, _, *lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    assert header == ["door", "gives", f"`{repositories['simclr']}`", f"`{repositories['mae-cls']}`", "tolerance"]
    by_door = {line[0]: line for line in lines}
    assert by_door["timm, features_only=True"][3] == "–"
    assert float(by_door["timm, features_only=True"][2]) < 1e-4
    assert by_door["AutoModel"][1:] == ["features", "0", "0", "0.0001"]
