"""Everything random about a view, drawn for a whole batch at once.

The draws are made on the CPU: the same seed gives the same views on every device, and the host knows which
images an operation touches, so that rendering never waits for the device.

Distributions are torchvision's: RandomResizedCrop.get_params and ColorJitter.get_params.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .policy import ViewPolicy

CROP_ATTEMPTS = 10  # torchvision's

# Draws of a view: area and aspect of each crop, its place, the order of the jitter, switches, strengths.
_SPLIT = (CROP_ATTEMPTS, CROP_ATTEMPTS, 2, 4, 5, 5)
DRAWS = sum(_SPLIT)

# The codes of `ViewParameters.jitter_order`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True)
class ViewParameters:
    """What is done to each image of a batch: CPU tensors with one row per image.

    Args:
        boxes: float64 (B, 4), crop as top, left, height, width in pixels of the original image.
        sizes: int64 (B, 2), height and width of the original image.
        flip: bool (B,), mirror the crop horizontally.
        jitter: bool (B,), apply the four jitter operations.
        jitter_order: int64 (B, 4), operation at each position; 0 brightness, 1 contrast, 2 saturation, 3 hue.
        brightness: float32 (B,), factor at least 0; 1 changes nothing.
        contrast: float32 (B,), factor at least 0; 1 changes nothing.
        saturation: float32 (B,), factor at least 0; 1 changes nothing.
        hue: float32 (B,), turns of the colour circle in [-0.5, 0.5]; 0 changes nothing.
        grayscale: bool (B,), drop colour.
        blur: bool (B,), apply a Gaussian blur.
        blur_sigma: float32 (B,), its standard deviation in pixels of the view.
        solarize: bool (B,), invert values from the threshold upwards.
        blur_kernel_fraction: kernel width as a fraction of the view's side.
        solarize_threshold: in [0, 255].
    """

    boxes: Tensor
    sizes: Tensor
    flip: Tensor
    jitter: Tensor
    jitter_order: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grayscale: Tensor
    blur: Tensor
    blur_sigma: Tensor
    solarize: Tensor
    blur_kernel_fraction: float
    solarize_threshold: float


@dataclass(frozen=True)
class ViewDraws:
    """All that is random about one view of B images, before the sizes of the images are known.

    Args:
        area_fractions: float64 (B, 10), area of each attempted crop as a fraction of the image's.
        ratios: float64 (B, 10), its width / height.
        positions: float64 (B, 2) in [0, 1), where the crop lies between the top and the bottom, the left and the
            right.
        ratio_range: smallest and largest width / height, for images that no attempt fits into.
        operations: the fields of `ViewParameters` that have a row per image, but for boxes and sizes.
        constants: the fields that are the same for all images.
    """

    area_fractions: Tensor
    ratios: Tensor
    positions: Tensor
    ratio_range: tuple[float, float]
    operations: dict[str, Tensor]
    constants: dict[str, float]

    def fit(self, sizes: Tensor, rows: slice = slice(None)) -> ViewParameters:
        """The parameters of some of the images.

        Args:
            sizes: int64 (rows, 2) on the CPU, height and width in pixels of these images.
            rows: which of the B images they are.

        Raises:
            ValueError: sizes not on the CPU, of another shape or not positive.
        """
        _check_sizes(sizes)
        crops = (self.area_fractions[rows], self.ratios[rows], self.positions[rows])
        return ViewParameters(
            boxes=_crop_boxes(sizes, *crops, self.ratio_range),
            sizes=sizes,
            **{name: values[rows] for name, values in self.operations.items()},
            **self.constants,
        )


def sample_view(policy: ViewPolicy, sizes: Tensor, generator: torch.Generator) -> ViewParameters:
    """Draw one view's parameters for every image.

    Args:
        policy: the distribution.
        sizes: int64 (B, 2) on the CPU, height and width of each original image in pixels.
        generator: a CPU generator.

    Raises:
        ValueError: sizes or generator not on the CPU, or sizes of another shape or not positive.
    """
    _check_sizes(sizes)
    return draw_view(policy, len(sizes), generator).fit(sizes)


def draw_view(policy: ViewPolicy, batch: int, generator: torch.Generator) -> ViewDraws:
    """Make the draws of `sample_view` for B images whose sizes are not known yet.

    The number of draws does not depend on the policy, so changing one probability moves no other choice.

    Args:
        policy: the distribution.
        batch: number of images, B.
        generator: a CPU generator.

    Raises:
        ValueError: a generator that is not on the CPU.
    """
    if generator.device.type != "cpu":
        raise ValueError(
            f"The generator is on {generator.device}; views are sampled on the CPU so that every device gets "
            "the same ones: pass torch.Generator() without a device."
        )

    # One call for all of them, as each costs more than the numbers do.
    draws = torch.rand(batch, DRAWS, generator=generator, dtype=torch.float64)
    areas, ratios, positions, orders, switches, factors = draws.split(_SPLIT, dim=1)

    def between(low: float, high: float, unit: Tensor) -> Tensor:
        return unit * (high - low) + low

    def factor(strength: float, unit: Tensor) -> Tensor:
        return between(max(0.0, 1.0 - strength), 1.0 + strength, unit)

    flip, jitter, grayscale, blur, solarize = switches.unbind(dim=1)
    brightness, contrast, saturation, hue, sigma = factors.unbind(dim=1)
    log_low, log_high = (math.log(ratio) for ratio in policy.crop_ratio)
    operations = {
        "flip": flip < policy.flip_prob,
        "jitter": jitter < policy.jitter_prob,
        "jitter_order": orders.argsort(dim=1),
        "brightness": factor(policy.brightness, brightness).float(),
        "contrast": factor(policy.contrast, contrast).float(),
        "saturation": factor(policy.saturation, saturation).float(),
        "hue": between(-policy.hue, policy.hue, hue).float(),
        "grayscale": grayscale < policy.grayscale_prob,
        "blur": blur < policy.blur_prob,
        "blur_sigma": between(*policy.blur_sigma, sigma).float(),
        "solarize": solarize < policy.solarize_prob,
    }
    constants = {
        "blur_kernel_fraction": policy.blur_kernel_fraction,
        "solarize_threshold": policy.solarize_threshold,
    }
    area_fractions, aspects = between(*policy.crop_scale, areas), between(log_low, log_high, ratios).exp()
    return ViewDraws(area_fractions, aspects, positions, policy.crop_ratio, operations, constants)


def center_view(sizes: Tensor, crop_fraction: float) -> ViewParameters:
    """The evaluation view: the centred square of side `crop_fraction` times the shorter side, nothing else.

    `crop_fraction=224 / 256` is the usual resize to 256 followed by a central crop of 224.

    Args:
        sizes: int64 (B, 2) on the CPU, height and width of each original image in pixels.
        crop_fraction: in (0, 1].

    Raises:
        ValueError: crop_fraction outside (0, 1], or sizes as in `sample_view`.
    """
    _check_sizes(sizes)
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction={crop_fraction} must lie above 0 and at most at 1, the image's shorter side.")
    batch = len(sizes)
    sides = (crop_fraction * sizes.amin(dim=1, keepdim=True).double()).expand(batch, 2)
    never, zero, one = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch), torch.ones(batch)
    return ViewParameters(
        boxes=torch.cat([(sizes - sides) / 2, sides], dim=1),
        sizes=sizes,
        flip=never,
        jitter=never,
        jitter_order=torch.arange(4).expand(batch, 4),
        brightness=one,
        contrast=one,
        saturation=one,
        hue=zero,
        grayscale=never,
        blur=never,
        blur_sigma=one,
        solarize=never,
        blur_kernel_fraction=0.1,
        solarize_threshold=128,
    )


def _crop_boxes(
    sizes: Tensor, area_fractions: Tensor, ratios: Tensor, positions: Tensor, ratio_range: tuple[float, float]
) -> Tensor:
    """Boxes (B, 4) of the first attempt that fits into the image, else torchvision's central fallback."""
    # In numpy, whose calls cost a fifth of torch's: small images come many to a second.
    limits = sizes.numpy()
    height, width = limits.T.astype(np.float64)
    areas, aspects = area_fractions.numpy() * (height * width)[:, None], ratios.numpy()
    crops = np.rint(np.sqrt(np.stack([areas / aspects, areas * aspects], axis=2)))  # (B, 10, 2)
    fits = ((crops > 0) & (crops <= limits[:, None])).all(axis=2)
    crop = crops[np.arange(len(limits)), fits.argmax(axis=1)]
    corner = np.floor(positions.numpy() * (limits - crop + 1))
    boxes = np.concatenate([corner, crop], axis=1)

    misfits = ~fits.any(axis=1)
    if misfits.any():
        lowest, highest = ratio_range
        # A crop of less than half a pixel would round to nothing; torchvision leaves that case open.
        fallback_height = np.minimum(height, np.maximum(np.rint(width / lowest), 1))
        fallback_width = np.minimum(width, np.maximum(np.rint(height * highest), 1))
        fallback = np.stack([fallback_height, fallback_width], axis=1)
        central = np.floor((limits - fallback) / 2)
        boxes[misfits] = np.concatenate([central, fallback], axis=1)[misfits]
    return torch.from_numpy(boxes)


def _check_sizes(sizes: Tensor) -> None:
    if sizes.ndim != 2 or sizes.shape[1] != 2 or sizes.device.type != "cpu":
        raise ValueError(
            f"sizes has shape {tuple(sizes.shape)} on {sizes.device}; pass a CPU tensor of shape (B, 2) with "
            "the height and width of each original image."
        )
    if len(sizes) and sizes.min() < 1:
        raise ValueError(f"sizes holds {sizes.min().item()}; heights and widths are at least 1 pixel.")
