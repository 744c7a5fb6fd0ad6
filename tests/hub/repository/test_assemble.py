import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    pipeline,
)

import hf_ssl
from hf_ssl.augment import center_view, render_view
from hf_ssl.hub.repository import assemble as repository_module
from hf_ssl.hub.repository.assemble import assemble_repository

DOORS = {
    "transformers": lambda folder: AutoModel.from_pretrained(folder),
    "timm": lambda folder: timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0),
    "hf_ssl": lambda folder: AutoModel.from_pretrained(folder, subfolder="pretraining"),
}
CLASSIFIER_DOORS = {
    "transformers": lambda folder: AutoModelForImageClassification.from_pretrained(folder),
    "timm": lambda folder: timm.create_model(f"local-dir:{folder}", pretrained=True),
}


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def features(run, pixel_values):
    with torch.no_grad():
        return AutoModel.from_pretrained(run / "pretraining").eval()(pixel_values).pooler_output


@torch.no_grad()
def call(model, pixel_values):
    output = model.eval()(pixel_values)
    return output if isinstance(output, torch.Tensor) else output.get("pooler_output", output.get("logits"))


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_the_features_of_the_run(repository, door, pixel_values, features):
    torch.testing.assert_close(call(DOORS[door](repository), pixel_values), features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("door", CLASSIFIER_DOORS)
def test_classifiers_are_the_probe_on_the_features(run, repository, door, pixel_values, features):
    probe = load_file(run / "probe.safetensors")
    expected = features @ probe["weight"].T + probe["bias"]
    torch.testing.assert_close(call(CLASSIFIER_DOORS[door](repository), pixel_values), expected, rtol=0, atol=1e-4)


def test_the_pipeline_names_the_probes_answers(run, repository):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    answers = pipeline("image-classification", model=str(repository))(picture, top_k=6)
    pixel_values = AutoImageProcessor.from_pretrained(repository)(picture)["pixel_values"]
    features = call(AutoModel.from_pretrained(run / "pretraining"), pixel_values)
    probe = load_file(run / "probe.safetensors")
    scores = (features @ probe["weight"].T + probe["bias"]).softmax(-1)[0].tolist()
    names = json.loads((run / "results.json").read_text())["evaluation"]["class_names"]
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(names, scores, strict=True)), abs=1e-4
    )


def test_the_pretraining_model_is_equal_to_the_bit(run, repository):
    saved = AutoModelForPreTraining.from_pretrained(run / "pretraining")
    loaded = getattr(hf_ssl, type(saved).__name__).from_pretrained(repository, subfolder="pretraining")
    assert loaded.config.to_diff_dict() == saved.config.to_diff_dict()
    for (name, mine), (_, theirs) in zip(loaded.state_dict().items(), saved.state_dict().items(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_processor_shows_what_the_probe_saw(run, repository):
    """At a size where neither has to resample: 32 px of 36.57, which timm rounds to 36."""
    config = AutoModel.from_pretrained(run / "pretraining").config
    processor = AutoImageProcessor.from_pretrained(repository)
    assert processor.data_config["crop_pct"] == 0.875
    assert (processor.data_config["interpolation"], processor.data_config["crop_mode"]) == ("bilinear", "center")
    pixels = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)
    shown = processor(Image.fromarray(pixels))["pixel_values"]
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    seen = render_view(whole, center_view(torch.tensor([[36, 36]]), 32 / 36), 32, config.image_mean, config.image_std)
    torch.testing.assert_close(shown, seen, rtol=0, atol=1e-5)


def test_the_root_is_plain_timm(repository):
    config = json.loads((repository / "config.json").read_text())
    assert "model_type" not in config
    assert not {"num_classes", "in_chans"} & set(config["model_args"])
    # Nothing of the weights that timm would have downloaded for this architecture.
    assert not {"url", "hf_hub_id", "tag", "origin_url", "paper_ids"} & set(config["pretrained_cfg"])
    assert config["pretrained_cfg"]["fixed_input_size"] == (config["architecture"] == "vit_tiny_patch16_224")
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]


def test_no_file_names_a_place_on_this_machine(run, runs, repository):
    for path in repository.rglob("*"):
        if path.is_file():
            for place in (run.parent, runs["simclr"].parent.parent):
                assert str(place).encode() not in path.read_bytes(), path


def test_without_weights_and_pictures_of_the_data_all_else_is_the_same(run, repository, tmp_path):
    bare = assemble_repository(run, tmp_path / repository.name, weights=False)
    files = {path.relative_to(repository) for path in repository.rglob("*") if path.is_file()}
    bare_files = {path.relative_to(bare) for path in bare.rglob("*") if path.is_file()}
    left_out = {path.as_posix() for path in files - bare_files}
    data_pictures = {path for path in left_out if path.startswith("pictures/")}
    assert left_out - data_pictures == {"model.safetensors", "pretraining/model.safetensors"}
    assert "pictures/loss.png" not in data_pictures
    for path in bare_files - {Path("README.md")}:
        assert (bare / path).read_bytes() == (repository / path).read_bytes(), path
    assert all(picture not in (bare / "README.md").read_text() for picture in data_pictures)


@pytest.fixture
def simclr_run(runs, tmp_path):
    return shutil.copytree(runs["simclr"], tmp_path / "run")


def test_an_earlier_repository_is_replaced(simclr_run, tmp_path):
    target = tmp_path / "model"
    assemble_repository(simclr_run, target)
    (simclr_run / "pictures" / "views.png").unlink()
    assemble_repository(simclr_run, target)
    assert not (target / "pictures" / "views.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]


@pytest.mark.parametrize("files", [["notes.txt"], ["README.md", "config.json"], [".git/HEAD", "results.json"]])
def test_a_foreign_folder_is_left_alone(simclr_run, tmp_path, files):
    target = tmp_path / "mine"
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(name)
    with pytest.raises(FileExistsError, match="choose another folder"):
        assemble_repository(simclr_run, target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) == files


def test_the_run_itself_is_no_target(simclr_run):
    with pytest.raises(FileExistsError, match="choose another folder"):
        assemble_repository(simclr_run, simclr_run)


def test_a_failure_leaves_the_earlier_repository(simclr_run, tmp_path, monkeypatch):
    target = assemble_repository(simclr_run, tmp_path / "model")
    before = (target / "README.md").read_bytes()

    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(repository_module, "write_card", fail)
    with pytest.raises(OSError, match="disk full"):
        assemble_repository(simclr_run, target)
    assert (target / "README.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]


def test_a_run_without_its_probe_says_how_to_get_one(simclr_run, tmp_path):
    (simclr_run / "probe.safetensors").unlink()
    with pytest.raises(ValueError, match=f"run `hf-ssl evaluate {simclr_run}` first"):
        assemble_repository(simclr_run, tmp_path / "model")

    results = json.loads((simclr_run / "results.json").read_text())
    del results["evaluation"]
    (simclr_run / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=f"run `hf-ssl evaluate {simclr_run}` first"):
        assemble_repository(simclr_run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_probe_of_another_encoder_is_refused(simclr_run, tmp_path):
    save_file({"weight": torch.zeros(6, 64), "bias": torch.zeros(6)}, simclr_run / "probe.safetensors")
    with pytest.raises(ValueError, match=r"\(6, 64\), where 6 classes and 128 features are due"):
        assemble_repository(simclr_run, tmp_path / "model")
