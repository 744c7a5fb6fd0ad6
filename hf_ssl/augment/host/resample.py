"""Crop and resize 8 bit images, antialiased bilinear: the triangle filter of torchvision and Pillow."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from torch.nn import functional

from hf_ssl.augment.sampling import ViewParameters


class Crop(NamedTuple):
    """A crop's place in an image that may be smaller than the original.

    Attributes:
        rows: the whole pixels that hold it.
        columns: likewise.
        box: top, left, height and width within these, in pixels and fractions of them.
        is_whole: whether it is made of whole pixels.
    """

    rows: slice
    columns: slice
    box: list[float]
    is_whole: bool


def place_crops(images: Sequence[np.ndarray], parameters: ViewParameters) -> list[Crop]:
    """Scale the boxes, which are in the originals' pixels, to images (height, width, 3) of any size."""
    sides = np.array([image.shape[:2] for image in images], np.float64).reshape(-1, 2)
    boxes = parameters.boxes.numpy() * np.tile(sides / parameters.sizes.numpy(), 2)
    # The scaling may leave a whole number a rounding away from itself.
    rounded = np.rint(boxes)
    boxes = np.where(np.abs(boxes - rounded) < 1e-6, rounded, boxes)
    # A box may be a sliver of a pixel, where a very long image was squeezed.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1e-6)
    starts = np.minimum(np.floor(boxes[:, :2]), sides - 1)
    stops = np.maximum(np.ceil(boxes[:, :2] + boxes[:, 2:]), starts + 1)
    rows, columns = (
        map(slice, starts[:, axis].astype(int).tolist(), stops[:, axis].astype(int).tolist()) for axis in range(2)
    )
    inner = np.concatenate([boxes[:, :2] - starts, boxes[:, 2:]], axis=1).tolist()
    are_whole = (boxes == np.floor(boxes)).all(axis=1).tolist()
    return list(map(Crop, rows, columns, inner, are_whole))


def resized_crop(image: np.ndarray, crop: Crop, out: np.ndarray) -> None:
    """Write a crop of an image uint8 (height, width, 3), resized, into `out`, uint8 (S, S, 3) and contiguous."""
    rows, columns, (top, left, height, width), is_whole = crop
    pixels = image[rows, columns]
    side = len(out)
    is_enlarged = height <= side and width <= side
    if is_whole and is_enlarged:
        # There is nothing to antialias.
        cv2.resize(pixels, (side, side), out, interpolation=cv2.INTER_LINEAR)
    elif is_whole:
        # A copy, as torch wants to be able to write to it, and cached images are read-only.
        planes = torch.from_numpy(np.array(pixels))[None].permute(0, 3, 1, 2)
        # In this order of dimensions torch knows that channels come last, which makes it three times as fast.
        resized = functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)
        out[:] = resized[0].permute(1, 2, 0).numpy()
    elif is_enlarged:
        step_x, step_y = width / side, height / side
        # Centres of pixels fall on centres of pixels.
        matrix = np.array([[step_x, 0, left + (step_x - 1) / 2], [0, step_y, top + (step_y - 1) / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(pixels, matrix, (side, side), out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    else:
        # Pillow alone antialiases between pixels.
        box = (left, top, left + width, top + height)
        whole = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        out[:] = np.asarray(whole.resize((side, side), PIL.Image.Resampling.BILINEAR, box=box))
