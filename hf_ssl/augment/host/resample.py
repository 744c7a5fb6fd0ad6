"""Crop and resize one 8 bit image, antialiased bilinear: the triangle filter of torchvision and Pillow."""

import cv2
import numpy as np
import PIL.Image
import torch
from torch.nn import functional


def resized_crop(image: np.ndarray, box: tuple[float, float, float, float], out: np.ndarray) -> None:
    """Write a crop of an image, resized, into `out`.

    Args:
        image: uint8 (height, width, 3).
        box: top, left, height and width in pixels of this image, not necessarily whole ones.
        out: uint8 (S, S, 3), contiguous.
    """
    top, left, height, width = box
    rows, columns = slice(int(top), -int(-(top + height) // 1)), slice(int(left), -int(-(left + width) // 1))
    crop = image[rows, columns]
    side = len(out)
    is_enlarged = height <= side and width <= side
    if crop.shape[0] == height and crop.shape[1] == width:
        if is_enlarged:
            # There is nothing to antialias.
            cv2.resize(crop, (side, side), dst=out, interpolation=cv2.INTER_LINEAR)
        else:
            # A copy, as torch wants to be able to write to it, and cached images are read-only.
            planes = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]
            resized = functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)
            out[:] = resized[0].permute(1, 2, 0).numpy()
    elif is_enlarged:
        # Centres of pixels on centres of pixels.
        steps = np.array([width, height]) / side
        offsets = np.array([left - columns.start, top - rows.start]) + (steps - 1) / 2
        matrix = np.array([[steps[0], 0, offsets[0]], [0, steps[1], offsets[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(crop, matrix, (side, side), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    else:
        # Pillow alone antialiases boxes between pixels.
        box = (left - columns.start, top - rows.start, left + width - columns.start, top + height - rows.start)
        whole = PIL.Image.fromarray(np.ascontiguousarray(crop))
        out[:] = np.asarray(whole.resize((side, side), PIL.Image.Resampling.BILINEAR, box=box))
