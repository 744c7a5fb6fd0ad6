"""Apply sampled parameters to a batch of images, on the images' device.

Order of SimCLR and BYOL: crop, flip, colour jitter, greyscale, blur, solarise, normalise. An operation runs
on the images it was drawn for and on no others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_ssl.augment.device.blur import gaussian_blur, kernel_radius
from hf_ssl.augment.device.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    grayscale,
    solarize,
)
from hf_ssl.augment.device.resample import resample, resample_weights
from hf_ssl.augment.sampling import ViewParameters

JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)  # the codes in jitter_order


@torch.no_grad()
def render_view(
    images: Tensor, parameters: ViewParameters, output_size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Crop, distort and normalise a batch.

    Computes in float32 under autocast too, equal to torchvision's functions on float images to about 1e-5, or
    to 1e-3 where CUDA may use TF32 (`torch.backends.cuda.matmul.allow_tf32`).

    Args:
        images: uint8 (B, 3, S, S), whole images resized to a square whatever their aspect; boxes are in the
            original's pixels and mapped by S / height and S / width, so the geometry stays exact.
        parameters: what to do with each image, B rows.
        output_size: side of the view in pixels.
        mean: 3 channel means in [0, 1].
        std: 3 channel standard deviations in [0, 1].

    Returns:
        float32 (B, 3, output_size, output_size), normalised.

    Raises:
        ValueError: images of another dtype or shape, or another number of them than of parameters.
    """
    _check_images(images, parameters)
    with torch.autocast(images.device.type, enabled=False):
        views = _crop(images, parameters, output_size)
        _jitter(views, parameters)

        if (chosen := _indices(parameters.grayscale, views)).numel():
            gray = grayscale(views.index_select(0, chosen))
            views.index_copy_(0, chosen, gray.expand(-1, 3, -1, -1))
        if (chosen := _indices(parameters.blur, views)).numel():
            sigmas = parameters.blur_sigma[parameters.blur].to(views.device, non_blocking=True)
            radius = kernel_radius(output_size, parameters.blur_kernel_fraction)
            views.index_copy_(0, chosen, gaussian_blur(views.index_select(0, chosen), sigmas, radius))
        if (chosen := _indices(parameters.solarize, views)).numel():
            solarized = solarize(views.index_select(0, chosen), parameters.solarize_threshold / 255)
            views.index_copy_(0, chosen, solarized)

        channels = torch.tensor([mean, std], dtype=torch.float32)[:, :, None, None]
        shift, scale = channels.to(views.device, non_blocking=True)
        return views.sub_(shift).div_(scale)


def _crop(images: Tensor, parameters: ViewParameters, output_size: int) -> Tensor:
    side = images.shape[-1]
    scale = side / parameters.sizes.double()
    starts, lengths = parameters.boxes[:, :2] * scale, parameters.boxes[:, 2:] * scale
    flips = torch.stack([torch.zeros_like(parameters.flip), parameters.flip], dim=1).double()
    intervals = torch.stack([starts, lengths, flips]).float().to(images.device, non_blocking=True)
    rows, columns = (
        resample_weights(start, length, flip > 0, side, output_size) for start, length, flip in intervals.unbind(dim=2)
    )
    # Contiguous whatever the strides: the products see each channel's rows one after the other.
    planes = images.to(torch.float32, memory_format=torch.contiguous_format)
    return resample(planes, rows / 255, columns)


def _jitter(views: Tensor, parameters: ViewParameters) -> None:
    factors = torch.stack([parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue])
    changes = (factors != torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None]) & parameters.jitter
    for position in range(4):
        for operation, adjust in enumerate(JITTER):
            selected = changes[operation] & (parameters.jitter_order[:, position] == operation)
            if (chosen := _indices(selected, views)).numel():
                strengths = factors[operation][selected].to(views.device, non_blocking=True)
                views.index_copy_(0, chosen, adjust(views.index_select(0, chosen), strengths))


def _indices(selected: Tensor, views: Tensor) -> Tensor:
    return selected.nonzero().squeeze(1).to(views.device, non_blocking=True)


def _check_images(images: Tensor, parameters: ViewParameters) -> None:
    side = images.shape[-1]
    if images.dtype != torch.uint8 or images.shape[1:] != (3, side, side):
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; pass uint8 of shape (B, 3, S, S), "
            "whole images resized to one square."
        )
    if len(images) != len(parameters.sizes):
        raise ValueError(
            f"There are {len(images)} images but parameters for {len(parameters.sizes)}; sample the "
            "parameters with the sizes of this batch."
        )
