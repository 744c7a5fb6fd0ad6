"""What the pairs share: precision, and the gradients of a model."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

# The precisions of the sides as the training's arguments call them.
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16"}


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of a model by its parameters' names."""
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
