"""Which encoders may be built."""

import pickle

import pytest
import torch
from tiny_models import TINY
from torch import nn

from hf_ssl import MAEForPreTraining
from hf_ssl.models.encoder import check_backbone, choose_attention, create_encoder


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "backbone",
    [
        "hf-hub:timm/resnet18.a1_in1k",
        "hf_hub:timm/resnet18",
        "local-dir:/tmp/model",
        "local-dir:..",
        "timm/resnet18",
        "../resnet18",
        "resnet18.a/../../model",
        "C:\\resnet18",
        "https://example.com/resnet18",
    ],
)
def test_a_place_is_no_backbone(backbone):
    for build in (
        check_backbone,
        create_encoder,
        *(lambda name, _, make=make: make(backbone=name) for make in TINY.values()),
    ):
        with pytest.raises(ValueError, match="is a place to load from; give the name of a timm architecture"):
            build(backbone, {})


@pytest.mark.parametrize("backbone", ["resnet_eighteen", "", "resnet18x", "os.system"])
def test_an_unknown_backbone_is_refused(backbone):
    with pytest.raises(ValueError, match="is not a timm model"):
        TINY["simclr"](backbone=backbone)


def test_an_unknown_tag_is_refused():
    with pytest.raises(ValueError, match="'resnet18.nobody' cannot be built"):
        create_encoder("resnet18.nobody", {})


@pytest.mark.parametrize(
    "argument",
    [
        "cache_dir",
        "checkpoint_path",
        "device",
        "dtype",
        "exportable",
        "feature_cfg",
        "feature_cls",
        "features_only",
        "kwargs_filter",
        "model_cfg",
        "model_name",
        "no_jit",
        "num_classes",
        "out_indices",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_model_args",
        "pretrained_strict",
        "pruned",
        "scriptable",
        "variant",
    ],
)
@pytest.mark.parametrize("method", TINY)
def test_what_timms_factories_take_is_not_of_the_architecture(method, argument):
    with pytest.raises(ValueError, match=f"backbone_kwargs holds '{argument}', which is not of the architecture"):
        TINY[method](backbone_kwargs={argument: None})


def test_a_checkpoint_path_in_a_config_is_never_opened(tmp_path):
    """Were it not refused, timm would unpickle it."""
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for arguments in ({"checkpoint_path": str(checkpoint)}, {"pretrained_cfg": {"file": str(checkpoint)}}):
        with pytest.raises(ValueError, match="leave it out"):
            create_encoder("resnet18", arguments)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [nn.GELU, torch.zeros(1), {"a": [print]}, {1: 2}, b"bytes"])
def test_values_are_plain(value):
    with pytest.raises(ValueError, match="give a number, a text, true, false, or a list or mapping"):
        check_backbone("resnet18", {"act_layer": value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"act_layer": "os.system"},
        {"norm_layer": "subprocess.Popen"},
        {"block_fn": "os.system"},
        {"attn_layer": "os.system"},
        {"embed_layer": "builtins.open"},
        {"weight_init": "eval"},
        {"unknown": 1},
    ],
)
def test_names_are_looked_up_in_timms_tables_alone(arguments):
    with pytest.raises(ValueError, match="cannot be built with .*; change backbone_kwargs"):
        create_encoder("vit_tiny_patch16_224", {"depth": 1, **arguments})


def test_names_of_timms_own_layers_work():
    encoder = create_encoder("vit_tiny_patch16_224", {"depth": 1, "act_layer": "silu", "norm_layer": "rmsnorm"})
    assert type(encoder.blocks[0].mlp.act).__name__.lower() == "silu"


@pytest.mark.parametrize(
    ("device", "mixed_precision", "fused"),
    [("cpu", "no", True), ("cpu", "bf16", False), ("cuda", "no", True), ("cuda", "bf16", True)],
)
def test_attention_is_chosen_for_a_model_that_was_loaded(device, mixed_precision, fused, tmp_path, monkeypatch):
    MAEForPreTraining(TINY["mae"]()).save_pretrained(tmp_path)
    model = MAEForPreTraining.from_pretrained(tmp_path).eval()
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    expected = model(images, noise=noise).logits
    calls = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or attend(*a, **k)
    )
    choose_attention(model, torch.device(device), mixed_precision)
    torch.testing.assert_close(model(images, noise=noise).logits, expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == (len(model.blocks) + len(model.decoder_blocks) if fused else 0)
