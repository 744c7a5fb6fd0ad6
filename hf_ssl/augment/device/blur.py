"""Gaussian blur with one standard deviation per image.

Equal to torchvision.transforms.v2.functional.gaussian_blur: truncated kernel of sum 1, reflect padding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_radius(output_size: int, kernel_fraction: float) -> int:
    """Radius, at least 1, of the odd kernel (2 · radius + 1) that spans a fraction of the view."""
    return max(1, int(kernel_fraction * output_size) // 2)


def gaussian_blur(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Blur float (B, C, H, W) by sigmas (B,) in pixels, kernel 2 · radius + 1 wide; radius < H, W."""
    batch, channels, height, width = images.shape
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernels = torch.softmax(-0.5 * (offsets / sigmas[:, None]).square(), dim=1)
    # One group per image and channel lets one convolution use a kernel per image.
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None]
    padded = torch.nn.functional.pad(images, [radius] * 4, mode="reflect")
    planes = padded.view(1, batch * channels, height + 2 * radius, width + 2 * radius)
    planes = torch.conv2d(planes, kernels[:, :, None, :], groups=batch * channels)
    planes = torch.conv2d(planes, kernels[:, :, :, None], groups=batch * channels)
    return planes.view_as(images)
