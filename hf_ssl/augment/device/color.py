"""Colour operations with one factor per image, equal to torchvision.transforms.v2.functional on float images.

Images are float (B, 3, H, W) in [0, 1], factors float (B,). The adjust_* functions work in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R BT.601


def grayscale(images: Tensor) -> Tensor:
    """Luma of each pixel, (B, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale by the factor: 0 is black, 1 the image."""
    return images.mul_(_per_image(factors)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image's mean luma: 0 is flat grey, 1 the image."""
    means = images.mean(dim=(2, 3))
    luma = means[:, 0] * LUMA[0] + means[:, 1] * LUMA[1] + means[:, 2] * LUMA[2]
    return images.mul_(_per_image(factors)).add_(_per_image(luma * (1 - factors))).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the luma of each pixel: 0 is greyscale, 1 the image."""
    gray = grayscale(images).mul_(_per_image(1 - factors))
    return images.mul_(_per_image(factors)).add_(gray).clamp_(0, 1)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by a fraction of the colour circle, saturation and value (HSV) unchanged.

    With hue in sixths of a turn, each channel is the value minus the chroma times a trapezoid of the hue
    around the channel's own place on the circle: https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative.
    """
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp(min=torch.finfo(chroma.dtype).tiny)  # greys: 0 / tiny = 0
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue.add_(6 * turns[:, None, None])
    hue.sub_((hue / 6).floor_(), alpha=6)
    shortfalls = (
        2 - (hue - 3).abs_(),
        ((hue - 5).abs_() - 3).abs_() - 1,
        ((hue - 1).abs_() - 3).abs_() - 1,
    )
    for channel, shortfall in zip((red, green, blue), shortfalls, strict=True):
        torch.addcmul(value, chroma, shortfall.clamp_(0, 1), value=-1, out=channel)
    return images


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert every value from the threshold (in [0, 1]) upwards."""
    return torch.where(images >= threshold, 1 - images, images)


def _per_image(factors: Tensor) -> Tensor:
    return factors[:, None, None, None]
