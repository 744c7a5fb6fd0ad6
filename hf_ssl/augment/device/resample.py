"""Crop and resize as two matrix products per image.

Antialiased bilinear interpolation (torch.nn.functional.interpolate with antialias=True) is linear and
separable, so a crop, its resize and a flip are one matrix for the rows and one for the columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resample(images: Tensor, row_weights: Tensor, column_weights: Tensor) -> Tensor:
    """Apply each image's row and column matrix.

    Args:
        images: float (B, C, H, W).
        row_weights: float (B, out, H).
        column_weights: float (B, out, W).

    Returns:
        float (B, C, out, out).
    """
    batch, channels, height, width = images.shape
    narrow = torch.bmm(images.reshape(batch, channels * height, width), column_weights.transpose(1, 2))
    return row_weights[:, None] @ narrow.view(batch, channels, height, -1)


def resample_weights(starts: Tensor, lengths: Tensor, mirrored: Tensor, pixels: int, samples: int) -> Tensor:
    """Matrices that read `samples` values from an interval of a line of `pixels` pixels.

    The triangle filter reaches one step between samples to either side, at least one pixel. It sees only what
    is inside the interval, as if the line had been cut first: a pixel counts by its part inside.

    Args:
        starts: (B,), where each interval begins, in pixels.
        lengths: (B,), how long it is, above 0.
        mirrored: bool (B,), read the interval backwards.

    Returns:
        float32 (B, samples, pixels) on the inputs' device, every row summing to 1.
    """
    steps = lengths / samples
    origins = torch.where(mirrored, starts + lengths, starts)
    signed_steps = torch.where(mirrored, -steps, steps)
    centers = origins[:, None] + signed_steps[:, None] * (torch.arange(samples, device=starts.device) + 0.5)
    edges = torch.arange(pixels, device=starts.device)
    ends = torch.minimum(edges + 1, (starts + lengths)[:, None])
    inside = (ends - torch.maximum(edges, starts[:, None])).clamp_(min=0)

    distances = (edges + 0.5 - centers[:, :, None]).abs_()
    weights = (1 - distances / steps.clamp(min=1)[:, None, None]).clamp_(min=0).mul_(inside[:, None])
    return weights.div_(weights.sum(dim=2, keepdim=True)).float()
