"""The views of a training batch, one per policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .device.rendering import render_view
from .policy import ViewPolicy
from .sampling import sample_view

# Of 8 bit views that the CPU normalises at a time.
CHUNK_BYTES = 2**18


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


def normalize_views(views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What an encoder sees of views that the host rendered.

    Args:
        views: uint8 (B, V, S, S, 3) on any device.
        mean: 3 channel means in [0, 1].
        std: 3 channel standard deviations in [0, 1].

    Returns:
        float32 on the views' device: (B, 3, S, S) for one view, (B, V, 3, S, S) for V of them. Each image lies in
        memory channels last.
    """
    batch, count, side, _, channels = views.shape
    deviations = 255 * torch.tensor(std, dtype=torch.float32)
    factors = torch.stack([1 / deviations, -255 * torch.tensor(mean, dtype=torch.float32) / deviations])
    # One factor for each value of a line, as broadcasting over three channels would be slow.
    scale, shift = factors.repeat(1, side).to(views.device, non_blocking=True)
    lines = views.reshape(batch, count * side, side * channels)
    normalized = torch.empty(lines.shape, device=views.device)
    # On a CPU a few images at a time, which stay in its cache from one operation to the next.
    chunk = batch if views.device.type != "cpu" else max(CHUNK_BYTES // max(lines[:1].nbytes, 1), 1)
    for out, values in zip(normalized.split(chunk), lines.split(chunk), strict=True):
        torch.addcmul(shift, values.float(), scale, out=out)
    normalized = normalized.view(views.shape).movedim(-1, -3)
    return normalized.squeeze(1) if count == 1 else normalized
