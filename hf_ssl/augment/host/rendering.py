"""Apply sampled parameters to decoded images on the CPU.

The order is that of `hf_ssl.augment.device.rendering`, and so are the views, to the rounding of 8 bit images.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from hf_ssl.augment.device.blur import kernel_radius
from hf_ssl.augment.host.blur import gaussian_blur
from hf_ssl.augment.host.color import (
    adjust_hue,
    brightness_matrices,
    drop_color,
    saturation_matrices,
    shift_to_mean,
    solarize,
)
from hf_ssl.augment.host.resample import place_crops, resized_crop
from hf_ssl.augment.sampling import CONTRAST, HUE, ViewParameters

# The loader's threads share the cores: OpenCV is not to start threads of its own, here or elsewhere in the process.
cv2.setNumThreads(0)

# Views that are worked on together, so that they stay in a core's cache.
CHUNK_BYTES = 2**18


def render_view(images: Sequence[np.ndarray], parameters: ViewParameters, out: np.ndarray) -> None:
    """Crop and distort images.

    Values are rounded to whole levels after every operation, as Pillow's are, and hue turns in HSV at 8 bit. Pixels
    are 0.7 levels of 255 from the device's with the same parameters in the mean, and one in a thousand more than 12.

    Args:
        images: B whole pictures, uint8 (height, width, 3), of the original size or reduced; boxes, which are in the
            original's pixels, are scaled, so the geometry stays exact.
        parameters: what to do with each image, B rows.
        out: uint8 (B, S, S, 3), where each view is written; every one contiguous.
    """
    crops = place_crops(images, parameters)
    flips = parameters.flip.tolist()
    jitter = _Jitter(parameters)
    grays, blurs, solarizes = (
        np.flatnonzero(switch.numpy()) for switch in (parameters.grayscale, parameters.blur, parameters.solarize)
    )
    sigmas = parameters.blur_sigma.tolist()
    radius = kernel_radius(out.shape[1], parameters.blur_kernel_fraction)
    chunk = max(CHUNK_BYTES // out[0].nbytes, 1) if len(out) else 1
    for start in range(0, len(out), chunk):
        rows = range(start, min(start + chunk, len(out)))
        for row in rows:
            view = out[row]
            resized_crop(images[row], crops[row], view)
            if flips[row]:
                cv2.flip(view, 1, view)
        jitter.apply(out, rows)
        for row in _among(rows, grays):
            drop_color(out[row])
        for row in _among(rows, blurs):
            gaussian_blur(out[row], sigmas[row], radius)
        for row in _among(rows, solarizes):
            solarize(out[row], parameters.solarize_threshold)


class _Jitter:
    """The jitter operations of a batch."""

    def __init__(self, parameters: ViewParameters):
        scaling = [brightness_matrices(factors.numpy()) for factors in (parameters.brightness, parameters.contrast)]
        matrices = [*scaling, saturation_matrices(parameters.saturation.numpy())]
        self.hue = parameters.hue.numpy()
        neutral = np.array([1.0, 1.0, 1.0, 0.0])
        columns = (parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue)
        changes = (np.stack(columns, axis=1) != neutral) & parameters.jitter.numpy()[:, None]
        order = parameters.jitter_order.numpy()
        # For each position the rows that turn their hue there, and those that something linear is done to.
        self.turned, self.linear = [], []
        for position in range(4):
            codes = order[:, position]
            rows = np.flatnonzero(np.take_along_axis(changes, codes[:, None], axis=1)[:, 0])
            codes = codes[rows]
            self.turned.append(rows[codes == HUE])
            rows, codes = rows[codes != HUE], codes[codes != HUE]
            self.linear.append(
                {row: (code, matrices[code][row]) for row, code in zip(rows.tolist(), codes, strict=True)}
            )

    def apply(self, views: np.ndarray, rows: range) -> None:
        """Distort some of the views."""
        for turned, linear in zip(self.turned, self.linear, strict=True):
            for row in rows:
                if row in linear:
                    code, matrix = linear[row]
                    view = views[row]
                    if code == CONTRAST:
                        shift_to_mean(matrix, view)
                    cv2.transform(view, matrix, view)
            chosen = _among(rows, turned)
            if len(chosen):
                adjust_hue(views, chosen, self.hue[chosen])


def _among(rows: range, chosen: np.ndarray) -> np.ndarray:
    """Which of the chosen rows, in ascending order, are among these."""
    start, stop = np.searchsorted(chosen, (rows.start, rows.stop))
    return chosen[start:stop]
