"""Gaussian blur of one 8 bit image, in place, with torchvision's kernel and reflecting borders."""

import math

import cv2
import numpy as np

# Beyond as many standard deviations a kernel weighs 0.05 % in all: an eighth of a level at the most.
REACH = 3.5


def gaussian_blur(image: np.ndarray, sigma: float, radius: int) -> None:
    """Blur uint8 (S, S, 3) by `sigma` pixels, the kernel not wider than 2 · radius + 1."""
    radius = min(radius, math.ceil(REACH * sigma))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    cv2.sepFilter2D(image, -1, kernel, kernel, dst=image, borderType=cv2.BORDER_REFLECT_101)
