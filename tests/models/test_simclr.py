"""SimCLR's own properties."""

from itertools import pairwise

import pytest
import torch
from tiny_models import TINY
from torch import nn

from hf_ssl import NTXentLoss, SimCLRForPreTraining

BIASES = {"all": [False, False], "hidden": [False, True], "none": [True, True]}


def test_the_loss_is_nt_xent_of_the_projections_of_both_views():
    torch.manual_seed(0)
    config = TINY["simclr"](temperature=0.2)
    model = SimCLRForPreTraining(config).eval()
    images = torch.randn(4, 2, 3, 32, 32)
    output = model(images)
    assert output.projections.shape == (4, 2, config.projection_dim)
    per_view = [model.projection_head(model.encoder(images[:, view])) for view in range(2)]
    torch.testing.assert_close(output.projections, torch.stack(per_view, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, NTXentLoss(0.2)(*per_view), rtol=1e-4, atol=1e-5)


def test_batch_norm_sees_both_views_together():
    torch.manual_seed(0)
    model = SimCLRForPreTraining(TINY["simclr"]()).train()
    images = torch.randn(4, 2, 3, 32, 32)
    seen = []
    model.encoder.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    model(images)
    assert seen == [8]


@pytest.mark.parametrize("norm", ["all", "hidden", "none"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_projection_head_is_what_the_config_says(norm, layers):
    config = TINY["simclr"](projection_layers=layers, projection_norm=norm, projection_hidden_size=24)
    head = SimCLRForPreTraining(config).projection_head
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    widths = [16] + [24] * (layers - 1) + [16]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(widths))
    norms = [layer for layer in head if isinstance(layer, nn.BatchNorm1d)]
    assert len(norms) == {"all": layers, "hidden": layers - 1, "none": 0}[norm]
    assert sum(isinstance(layer, nn.ReLU) for layer in head) == layers - 1
    assert not isinstance(head[-1], nn.ReLU)
    # A bias in front of a batch norm would have no effect.
    assert [layer.bias is not None for layer in linear] == [BIASES[norm][0]] * (layers - 1) + [BIASES[norm][1]]


def test_a_vit_can_be_the_encoder():
    config = TINY["simclr"](
        backbone="vit_tiny_patch16_224",
        backbone_kwargs={"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 48, "num_heads": 3},
    )
    model = SimCLRForPreTraining(config)
    assert torch.isfinite(model(torch.randn(2, 2, 3, 32, 32)).loss)


def test_a_vit_built_for_another_size_is_refused_with_the_fix():
    with pytest.raises(
        ValueError, match=r"built for 224 px and image_size is 32; set backbone_kwargs to \{'img_size': 32"
    ):
        SimCLRForPreTraining(TINY["simclr"](backbone="vit_tiny_patch16_224", backbone_kwargs={"depth": 1}))


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 3, 3, 32, 32)])
def test_other_than_two_views_are_refused(shape):
    with pytest.raises(ValueError, match="two views of each image"):
        SimCLRForPreTraining(TINY["simclr"]())(torch.randn(shape))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("projection_norm", "layer", "'all', 'hidden' or 'none'"),
        ("projection_layers", 0, "at least 1"),
        ("temperature", 0.0, "positive number"),
        ("backbone_kwargs", {"patch_size": 4}, "change backbone_kwargs"),
    ],
)
def test_values_that_are_not_allowed_are_refused_with_the_fix(field, value, message):
    with pytest.raises(ValueError, match=message):
        SimCLRForPreTraining(TINY["simclr"](**{field: value}))
