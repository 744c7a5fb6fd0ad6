import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    logging,
    pipeline,
)

from hf_ssl import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.commands import export as command
from hf_ssl.hub.convert.export import export_transformers
from hf_ssl.hub.convert.layouts import POOLED, stock_layout

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2}
RESNET = {"channels": [8, 8, 16, 16], "layers": [1, 2, 1, 1]}
STOCK = {
    "simclr": "ResNetForImageClassification",
    "mae-mean": "ViTModel",
    "mae-cls": "ViTForImageClassification",
}


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return {name: export_transformers(str(run), folder / name) for name, run in runs.items()}


@pytest.fixture
def export(exports, name):
    return exports[name]


@torch.no_grad()
def features_of(folder, pixel_values):
    return AutoModel.from_pretrained(folder)(pixel_values)


def write_simclr(folder, backbone, arguments, **fields):
    torch.manual_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(backbone=backbone, backbone_kwargs=arguments, image_size=32, **fields))
    with torch.no_grad():
        for weight in model.parameters():  # no norm or bias is as a fresh one's
            weight.add_(0.1 * torch.randn_like(weight))
        model.encoder.train()(torch.randn(4, 3, 32, 32))  # running statistics, too
    model.save_pretrained(folder / "pretraining")
    return folder


def test_the_stock_model_gives_the_encoders_outputs(run, export, name, pixel_values):
    assert export.architecture == STOCK[name]
    assert export.difference < 1e-4
    expected = features_of(run / "pretraining", pixel_values)
    model, info = AutoModel.from_pretrained(export.folder, output_loading_info=True)
    assert type(model).__module__.startswith("transformers.models.")
    assert not info["missing_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        outputs = model(pixel_values)
    torch.testing.assert_close(outputs.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
    pooled = {"mae-mean": lambda: outputs.last_hidden_state[:, 1:].mean(dim=1)}.get(
        name, lambda: outputs.pooler_output.flatten(1)
    )
    torch.testing.assert_close(pooled(), expected.pooler_output, rtol=0, atol=1e-5)


def test_the_classifier_is_the_probe_on_the_features(run, export, name, pixel_values):
    if name == "mae-mean":
        assert not any("classifier" in weight for weight in load_file(export.folder / "model.safetensors"))
        return
    probe = load_file(run / "probe.safetensors")
    expected = features_of(run / "pretraining", pixel_values).pooler_output @ probe["weight"].T + probe["bias"]
    model, info = AutoModelForImageClassification.from_pretrained(export.folder, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, expected, rtol=0, atol=1e-4)
    names = json.loads((run / "results.json").read_text())["evaluation"]["class_names"]
    assert [model.config.id2label[index] for index in range(len(names))] == names


def test_a_repository_gives_the_same_as_its_run(repository, export, tmp_path):
    again = export_transformers(str(repository), tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (export.folder, again.folder))
    assert first.keys() == second.keys()
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())
    for name in ("config.json", "preprocessor_config.json"):
        assert (export.folder / name).read_text() == (again.folder / name).read_text()


def test_a_repository_on_the_hub_gives_the_same(hub, repositories, exports, tmp_path):
    api = HfApi()
    api.create_repo("ana/simclr")
    api.upload_folder(repo_id="ana/simclr", folder_path=repositories["simclr"])
    api.create_tag("ana/simclr", tag="v1")
    hub.requests.clear()
    export = export_transformers("ana/simclr@v1", tmp_path / "export")
    assert not any("pretraining" in path for _, path in hub.requests if "resolve" in path)
    expected = load_file(exports["simclr"].folder / "model.safetensors")
    assert all(
        torch.equal(weight, expected[key]) for key, weight in load_file(export.folder / "model.safetensors").items()
    )


def test_nothing_but_these_files_is_written(export):
    assert {path.name for path in export.folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert {path.parent.parent for path in export.folder.iterdir()} == {export.folder.parent}
    assert not [path for path in export.folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("size", [(40, 40), (64, 48), (48, 64), (32, 32)])
def test_the_image_processor_gives_the_repositorys_pixels(repository, export, size):
    """Sizes of which as much is cut off on both sides; of others, half a pixel goes to the other side."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    stock = AutoImageProcessor.from_pretrained(export.folder)
    assert type(stock).__module__.startswith("transformers.models.bit")
    got, due = (
        processor(picture, return_tensors="pt")["pixel_values"]
        for processor in (stock, AutoImageProcessor.from_pretrained(repository))
    )
    assert got.shape == due.shape == (1, 3, 32, 32)
    # One step of 256 is what PIL's and torchvision's resizing differ by.
    steps = (got - due).abs() * torch.tensor(stock.image_std)[:, None, None] * 255
    assert steps.max() < 1.01


def test_the_code_of_the_readme_gives_the_features(run, export, name, tmp_path, monkeypatch, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        tmp_path / "picture.jpg"
    )
    (tmp_path / name).symlink_to(export.folder)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (export.folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == (1 if name == "mae-mean" else 2)
    scope = {}
    for block in blocks:
        exec(block, scope)
    pixels = AutoImageProcessor.from_pretrained(export.folder)(Image.open("picture.jpg"), return_tensors="pt")
    expected = features_of(run / "pretraining", pixels["pixel_values"]).pooler_output
    torch.testing.assert_close(scope["features"], expected, rtol=0, atol=1e-5)
    if name != "mae-mean":
        top = pipeline("image-classification", model=str(export.folder))("picture.jpg")[0]["label"]
        assert top in capsys.readouterr().out


def test_the_readme_says_what_was_measured_and_shows_no_path(run, export):
    readme = (export.folder / "README.md").read_text()
    assert "45.7%" in readme and "linear probe" in readme.lower()
    assert str(run.parent) not in readme and "<script>" not in readme
    assert readme.startswith("---\n") and "library_name: transformers" in readme


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("resnet18", RESNET),
        ("resnet50", RESNET),
        ("resnet34", {"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 2]}),
        ("vit_tiny_patch16_224", VIT),
        ("vit_tiny_patch16_224", {**VIT, "qkv_bias": False, "act_layer": "gelu_tanh"}),
        ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg", "fc_norm": False, "mlp_ratio": 2}),
        ("vit_tiny_patch16_224", {**VIT, "norm_layer": "layernorm", "num_heads": 4}),
    ],
)
def test_an_encoder_that_was_never_probed(backbone, arguments, pixel_values, tmp_path):
    run = write_simclr(tmp_path / "run", backbone, arguments)
    export = export_transformers(str(run), tmp_path / "export")
    expected = features_of(run / "pretraining", pixel_values)
    outputs = features_of(export.folder, pixel_values)
    torch.testing.assert_close(outputs.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-4)
    matching = [
        code
        for code, pool in POOLED.items()
        if (pooled := pool(outputs)).shape == expected.pooler_output.shape
        and torch.allclose(pooled, expected.pooler_output, rtol=1e-4, atol=1e-4)
    ]
    readme = (export.folder / "README.md").read_text()
    assert any(f"features = {code}" in readme for code in matching)
    assert json.loads((export.folder / "config.json").read_text())["architectures"][0] in ("ResNetModel", "ViTModel")


def test_a_stock_vit_without_a_random_pooler_loads_without_a_word(exports, caplog):
    logging.set_verbosity_warning()
    logging.enable_propagation()
    AutoModel.from_pretrained(exports["mae-mean"].folder)
    logging.disable_propagation()
    assert not [record for record in caplog.records if "MISSING" in record.getMessage()]
    assert not caplog.records


@pytest.mark.parametrize(
    ("backbone", "arguments", "difference"),
    [
        ("resnet18", {**RESNET, "stem_type": "deep", "stem_width": 4}, "has 'conv1.0.weight', for which there is no"),
        ("resnet18", {**RESNET, "avg_down": True}, "has 'layer1.0.downsample.2.bias', for which there is no"),
        ("resnet18", {**RESNET, "replace_stem_pool": True}, "has 'maxpool.0.weight', for which there is no"),
        ("seresnet18", RESNET, "has 'layer1.0.se.fc1.bias', for which there is no"),
        ("resnet50", {**RESNET, "base_width": 128}, r"is \(.*\), where \(.*\) is due"),
        ("resnet50", {**RESNET, "cardinality": 4}, r"is \(.*\), where \(.*\) is due"),
        (
            "resnet18",
            {**RESNET, "output_stride": 8, "channels": [8, 16, 32, 64]},
            r"its last_hidden_state is \(2, 64, 4, 4",
        ),
        ("resnet18", {**RESNET, "norm_layer": "groupnorm1"}, "only one of them has '.*num_batches_tracked'"),
        ("resnet18", {**RESNET, "global_pool": "max"}, "pools by 'max', not by the mean"),
        ("resnet18", {**RESNET, "act_layer": "hard_swish"}, "has the activation Hard.*, not ReLU"),
        ("vit_tiny_patch16_224", {**VIT, "init_values": 0.1}, "has 'blocks.0.ls1.gamma', for which there is no"),
        ("vit_tiny_patch16_224", {**VIT, "reg_tokens": 2}, "has 'reg_token', for which there is no"),
        ("vit_tiny_patch16_224", {**VIT, "qk_norm": True}, "has 'blocks.0.attn.k_norm.bias', for which there is no"),
        ("vit_tiny_patch16_224", {**VIT, "pre_norm": True}, "has 'norm_pre.bias', for which there is no"),
        ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}, "has 'fc_norm.bias', for which there is no"),
        ("vit_tiny_patch16_224", {**VIT, "global_pool": "max", "fc_norm": False}, "pools by 'max', neither"),
        ("vit_tiny_patch16_224", {**VIT, "no_embed_class": True}, r"is \(1, 16, 48\), where \(1, 17, 48\) is due"),
        (
            "vit_tiny_patch16_224",
            {**VIT, "class_token": False, "global_pool": "avg", "fc_norm": False},
            "lacks 'cls_token'",
        ),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, "a ConvNeXt of timm, and only"),
    ],
)
def test_what_the_stock_model_cannot_hold_is_refused_by_name(backbone, arguments, difference, tmp_path):
    run = write_simclr(tmp_path / "run", backbone, arguments)
    with pytest.raises(ValueError, match=difference) as error:
        export_transformers(str(run), tmp_path / "export")
    assert "load the repository folder itself, with timm installed" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_weight_that_got_lost_on_the_way_is_noticed(runs, tmp_path, monkeypatch):
    """The comparison is with what was loaded again, not with what was meant to be written."""
    from hf_ssl.hub.convert import export as module

    def save(weights, *arguments, **keywords):
        name = "encoder.layer.0.output.dense.weight"
        return save_file({**weights, name: 1.1 * weights[name]}, *arguments, **keywords)

    save_file = module.save_file
    monkeypatch.setattr(module, "save_file", save)
    with pytest.raises(ValueError, match="last_hidden_state differs by"):
        export_transformers(str(runs["mae-mean"]), tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_timm_repository_of_somebody_else(tmp_path, pixel_values):
    encoder = timm.create_model("resnet18", num_classes=3, **RESNET).eval()
    timm.models.save_for_hf(encoder, str(tmp_path / "theirs"), model_args=RESNET, safe_serialization=True)
    export = export_transformers(str(tmp_path / "theirs"), tmp_path / "export")
    model = AutoModelForImageClassification.from_pretrained(export.folder)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, encoder(pixel_values), rtol=1e-4, atol=1e-5)
    processor = AutoImageProcessor.from_pretrained(export.folder)
    assert processor.size["shortest_edge"] == int(224 / encoder.pretrained_cfg["crop_pct"])
    assert processor.resample == Image.Resampling[encoder.pretrained_cfg["interpolation"].upper()]
    assert "license" not in (export.folder / "README.md").read_text()


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_repository_cannot_name_files_or_places(repositories, tmp_path):
    evil = shutil.copytree(repositories["simclr"], tmp_path / "evil")
    edit_config(evil, model_args={"checkpoint_path": "/etc/passwd"})
    with pytest.raises(ValueError, match="backbone_kwargs holds 'checkpoint_path'"):
        export_transformers(str(evil), tmp_path / "export")
    edit_config(evil, architecture="hf-hub:somebody/else", model_args={})
    with pytest.raises(ValueError, match="is a place to load from"):
        export_transformers(str(evil), tmp_path / "export")


def test_an_encoder_without_blocks_is_refused():
    encoder = timm.create_model("vit_tiny_patch16_224", **VIT | {"depth": 0})
    with pytest.raises(ValueError, match="it has no blocks; load the repository folder itself"):
        stock_layout(encoder, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("interpolation", value) for value in ("random", None, 3)],
        *[("crop_pct", value) for value in (0, None, 1.5, "1", True, float("nan"))],
        *[("input_size", value) for value in (32, [3, 32], [3, 32, 48], [1, 32, 32], ["3", "32", "32"])],
        *[(name, value) for name in ("mean", "std") for value in ("abc", [0.5], [1, 1, "1"], None)],
        ("std", [0, 1, 1]),
        *[("model_args", value) for value in ([1], None, "x")],
        *[("pretrained_cfg", value) for value in ([], None, 1)],
        *[("num_classes", value) for value in ("6", -1, None, True)],
        *[("label_names", value) for value in ("abcdef", ["one"], [1, 2, 3, 4, 5, 6])],
        ("architecture", 1),
    ],
)
def test_a_config_that_timm_does_not_write(key, value, repositories, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    config = json.loads((repositories["simclr"] / "config.json").read_text())
    (config["pretrained_cfg"] if key in ("interpolation", "crop_pct", "input_size", "mean", "std") else config)[
        key
    ] = value
    (odd / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=f"config.json of 'odd' has .* for '{key}', where .* due; correct it"
    ) as caught:
        export_transformers(str(odd), tmp_path / "export")
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_their_config(repositories, tmp_path):
    broken = shutil.copytree(repositories["simclr"], tmp_path / "broken")
    edit_config(broken, num_classes=7, label_names=None)
    with pytest.raises(ValueError, match=r"model.safetensors' do not fit .*fc\.weight"):
        export_transformers(str(broken), tmp_path / "export")
    (broken / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="give a model with its weights"):
        export_transformers(str(broken), tmp_path / "export")
    edit_config(broken, pretrained_cfg={})
    with pytest.raises(ValueError, match="lacks 'input_size', so it is no timm model"):
        export_transformers(str(broken), tmp_path / "export")


def test_what_is_there_is_not_replaced(runs, tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(FileExistsError, match="exists already; choose another folder"):
        export_transformers(str(runs["simclr"]), tmp_path / "export")


@pytest.mark.parametrize("source", ["nowhere", "no/folder/here", "."])
def test_a_source_that_is_none(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="give a run, a repository folder"):
        export_transformers(source, Path("export"))


def test_the_command(runs, tmp_path, capsys):
    output = tmp_path / "export"
    command.run([str(runs["mae-cls"]), "--format", "transformers", "--output", str(output)], "hf-ssl export …")
    assert "holds a ViTForImageClassification; loaded again, its outputs " in capsys.readouterr().out
    assert type(AutoModel.from_pretrained(output)).__name__ == "ViTModel"
