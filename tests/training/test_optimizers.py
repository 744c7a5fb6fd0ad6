"""Optimisers and schedules, as recipes name them."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForPreTraining

from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.optimizers import create_optimizer, create_schedule


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "lars"])
def test_only_weights_decay(optimizer, tiny_config):
    model = AutoModelForPreTraining.from_config(tiny_config)
    groups = create_optimizer(model, PretrainArguments(optimizer=optimizer, weight_decay=0.1), 1e-3).param_groups
    decay = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert decay.keys() == {id(weight) for weight in trained.values()}
    for name, weight in trained.items():
        is_weight = weight.dim() > 1 and "token" not in name and "pos_embed" not in name
        assert decay[id(weight)] == (0.1 if is_weight else 0), name


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_lars_scales_weights_and_only_weights(weight_decay):
    """A weight moves by lr · trust · its norm ratio, a bias by lr · gradient (You et al. 2017, algorithm 1)."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    arguments = PretrainArguments(
        optimizer="lars", weight_decay=weight_decay, momentum=0.0, lars_trust_coefficient=0.02
    )
    optimizer = create_optimizer(layer, arguments, 0.5)
    layer(torch.randn(4, 5)).square().sum().backward()
    gradient, bias_gradient = layer.weight.grad.clone(), layer.bias.grad.clone()
    optimizer.step()
    # timm scales by trust · |w| / (|g| + wd · |w|), as the paper's equation 6 has it.
    ratio = 0.02 * weight.norm() / (gradient.norm() + weight_decay * weight.norm())
    torch.testing.assert_close(layer.weight, weight - 0.5 * ratio * (gradient + weight_decay * weight))
    torch.testing.assert_close(layer.bias, bias - 0.5 * bias_gradient)


def test_the_cosine_rises_linearly_and_ends_at_zero():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = create_schedule(optimizer, PretrainArguments(warmup_epochs=2), total_steps=30, steps_per_epoch=5)
    rates = []
    for _ in range(31):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:11] == pytest.approx([2.0 * step / 10 for step in range(11)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * step / 20) for step in range(21)])


def test_a_constant_rate_stays():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = create_schedule(optimizer, PretrainArguments(lr_schedule="constant"), 30, 5)
    for _ in range(30):
        assert optimizer.param_groups[0]["lr"] == 2.0
        optimizer.step()
        schedule.step()
