"""`--compile` compiles a model in place: its checkpoints are those of the plain model."""

import copy

import pytest
import torch
from tiny_models import pretraining_input
from transformers import AutoModelForPreTraining

from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.optimizers import create_optimizer


def train(model, optimizer, images, steps):
    losses = []
    for _ in range(steps):
        loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("first_compiled", [True, False])
def test_a_run_resumes_with_and_without_compile(first_compiled, tiny_config, tmp_path):
    torch.manual_seed(0)
    images, arguments = pretraining_input(tiny_config), PretrainArguments(optimizer="adamw")
    start = AutoModelForPreTraining.from_config(tiny_config).train()

    def build(compiled):
        model = copy.deepcopy(start)
        if compiled:
            model.compile(backend="eager")
        return model, create_optimizer(model, arguments, 1e-3)

    torch.manual_seed(1)
    whole = train(*build(compiled=False), images, 4)

    torch.manual_seed(1)
    model, optimizer = build(first_compiled)
    losses = train(model, optimizer, images, 2)
    assert model.state_dict().keys() == start.state_dict().keys()
    model.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")

    model, optimizer = build(not first_compiled)
    model.load_state_dict(AutoModelForPreTraining.from_pretrained(tmp_path).state_dict())
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    losses += train(model, optimizer, images, 2)
    assert losses == pytest.approx(whole, rel=1e-3)
