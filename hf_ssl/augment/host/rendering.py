"""Apply sampled parameters to decoded images on the CPU.

The order is that of `hf_ssl.augment.device.rendering`, and so are the views, to the rounding of 8 bit images.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from hf_ssl.augment.device.blur import kernel_radius
from hf_ssl.augment.host.blur import gaussian_blur
from hf_ssl.augment.host.color import (
    adjust_contrast,
    adjust_hue,
    apply_matrix,
    brightness_matrices,
    drop_color,
    saturation_matrices,
    solarize,
)
from hf_ssl.augment.host.resample import resized_crop
from hf_ssl.augment.sampling import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters

# The loader's threads share the cores: OpenCV is not to start threads of its own.
cv2.setNumThreads(0)

# Views that are worked on together, so that they stay in a core's cache.
CHUNK_BYTES = 2**18


def render_view(images: Sequence[np.ndarray], parameters: ViewParameters, out: np.ndarray) -> None:
    """Crop and distort images.

    Values are rounded to whole levels after every operation, as Pillow's are; each view stays within a few levels of
    the one that the device renders with the same parameters.

    Args:
        images: B whole pictures, uint8 (height, width, 3), of the original size or reduced; boxes, which are in the
            original's pixels, are scaled, so the geometry stays exact.
        parameters: what to do with each image, B rows.
        out: uint8 (B, S, S, 3), where each view is written; every one contiguous.
    """
    boxes = _boxes_in_images(images, parameters)
    flips = parameters.flip.tolist()
    chunk = max(CHUNK_BYTES // out[0].nbytes, 1) if len(out) else 1
    jitter = _Jitter(parameters)
    grays, blurs, solarizes = (
        switch.numpy() for switch in (parameters.grayscale, parameters.blur, parameters.solarize)
    )
    radius = kernel_radius(out.shape[1], parameters.blur_kernel_fraction)
    for start in range(0, len(out), chunk):
        views = out[start : start + chunk]
        stop = start + len(views)
        for view, image, box, flip in zip(
            views, images[start:stop], boxes[start:stop], flips[start:stop], strict=True
        ):
            resized_crop(image, box, view)
            if flip:
                cv2.flip(view, 1, dst=view)
        jitter.apply(views, start)
        for row in grays[start:stop].nonzero()[0]:
            drop_color(views[row])
        for row in blurs[start:stop].nonzero()[0]:
            gaussian_blur(views[row], parameters.blur_sigma[start + row].item(), radius)
        for row in solarizes[start:stop].nonzero()[0]:
            solarize(views[row], parameters.solarize_threshold)


class _Jitter:
    """The jitter operations of a batch."""

    def __init__(self, parameters: ViewParameters):
        self.brightness = brightness_matrices(parameters.brightness.numpy())
        self.contrast = brightness_matrices(parameters.contrast.numpy())
        self.saturation = saturation_matrices(parameters.saturation.numpy())
        self.hue = parameters.hue.numpy()
        # Only what changes something, each row's operations in its order.
        neutral = np.array([1.0, 1.0, 1.0, 0.0])
        columns = (parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue)
        changes = (np.stack(columns, axis=1) != neutral) & parameters.jitter.numpy()[:, None]
        self.orders = [
            [code if changed[code] else None for code in order]
            for order, changed in zip(parameters.jitter_order.tolist(), changes.tolist(), strict=True)
        ]

    def apply(self, views: np.ndarray, start: int) -> None:
        """Distort the views of the images from number `start` on."""
        for position in range(4):
            turned = []
            for row, order in enumerate(self.orders[start : start + len(views)]):
                operation = order[position]
                if operation == HUE:
                    turned.append(row)
                elif operation == BRIGHTNESS:
                    apply_matrix(views[row], self.brightness[start + row])
                elif operation == CONTRAST:
                    adjust_contrast(views[row], self.contrast[start + row])
                elif operation == SATURATION:
                    apply_matrix(views[row], self.saturation[start + row])
            if turned:
                adjust_hue(views, turned, self.hue[start + np.array(turned)])


def _boxes_in_images(images: Sequence[np.ndarray], parameters: ViewParameters) -> list[list[float]]:
    sides = np.array([image.shape[:2] for image in images], np.float64).reshape(-1, 2)
    boxes = parameters.boxes.numpy() * np.tile(sides / parameters.sizes.numpy(), 2)
    # The scaling may leave a whole number a rounding away from itself.
    whole = np.rint(boxes)
    return np.where(np.abs(boxes - whole) < 1e-6, whole, boxes).tolist()
