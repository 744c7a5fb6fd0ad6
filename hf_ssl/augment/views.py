"""The views of a training batch, one per policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .device.rendering import render_view
from .policy import ViewPolicy
from .sampling import sample_view


def make_views(
    images: Tensor,
    sizes: Tensor,
    policies: Sequence[ViewPolicy],
    generator: torch.Generator,
    output_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Sample and render one view per policy, in the order of the policies.

    Args:
        images: uint8 (B, 3, S, S) on any device, whole images resized to a square.
        sizes: int64 (B, 2) on the CPU, height and width of the originals in pixels.
        policies: at least one.
        generator: a CPU generator; its state determines the views on every device.
        output_size: side of a view in pixels.
        mean: 3 channel means in [0, 1].
        std: 3 channel standard deviations in [0, 1].

    Returns:
        float32 on the images' device: (B, 3, output_size, output_size) for one policy,
        (B, V, 3, output_size, output_size) for V of them.

    Raises:
        ValueError: no policy, or as `sample_view` and `render_view`.
    """
    if not policies:
        raise ValueError("policies is empty; pass one ViewPolicy for each view, such as [ViewPolicy()] for one.")
    views = [render_view(images, sample_view(policy, sizes, generator), output_size, mean, std) for policy in policies]
    return views[0] if len(views) == 1 else torch.stack(views, dim=1)
