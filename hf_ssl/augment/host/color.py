"""Colour operations on 8 bit images (S, S, 3), in place: torchvision's, rounded to whole levels after each.

Brightness, contrast and saturation are one 3 × 4 matrix each, which each pixel (red, green, blue, 1) is multiplied by.
Hue turns in HSV at 8 bit, as Pillow does it.
"""

import cv2
import numpy as np

from hf_ssl.augment.device.color import LUMA


def brightness_matrices(factors: np.ndarray) -> np.ndarray:
    """For factors (B,) the matrices float32 (B, 3, 4) that scale by them."""
    matrices = np.zeros((len(factors), 3, 4), np.float32)
    matrices[:, range(3), range(3)] = factors[:, None]
    return matrices


def saturation_matrices(factors: np.ndarray) -> np.ndarray:
    """For factors (B,) the matrices float32 (B, 3, 4) that blend with the luma of each pixel."""
    matrices = brightness_matrices(factors)
    matrices[:, :, :3] += (1 - factors)[:, None, None] * np.array(LUMA)
    return matrices


def shift_to_mean(scaling: np.ndarray, image: np.ndarray) -> None:
    """Make a matrix of `brightness_matrices` (3, 4) one of contrast: it then blends with the image's mean luma."""
    red, green, blue, _ = cv2.mean(image)
    luma = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    scaling[:, 3] = (1 - scaling[0, 0]) * luma


def adjust_hue(images: np.ndarray, rows: np.ndarray, turns: np.ndarray) -> None:
    """Turn the hue of some images (B, S, S, 3) by fractions of the colour circle, float (rows,)."""
    chosen = images[rows]
    # One tall picture: a call for all of them costs less than one for each, which small images would notice.
    tall = chosen.reshape(-1, chosen.shape[2], 3)
    # Of 8 bits, so that adding wraps around as hues do.
    hsv = cv2.cvtColor(tall, cv2.COLOR_RGB2HSV_FULL)
    shifts = np.zeros((len(rows), 1, chosen.shape[2], 3), np.uint8)
    shifts[..., 0] = np.rint(turns * 256).astype(np.int64).astype(np.uint8)[:, None, None]
    # Line by line with zeros for the other channels, several times as fast as every third value alone.
    lines = hsv.reshape(*chosen.shape[:2], -1)
    lines += shifts.reshape(len(rows), 1, -1)
    images[rows] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=tall).reshape(chosen.shape)


def drop_color(image: np.ndarray) -> None:
    """Set all channels to the luma."""
    cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=image)


def solarize(image: np.ndarray, threshold: float) -> None:
    """Invert every value from the threshold, in [0, 255], upwards."""
    np.subtract(255, image, out=image, where=image >= threshold)
