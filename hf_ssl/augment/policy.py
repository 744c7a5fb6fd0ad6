"""The distribution of one augmented view.

The defaults are SimCLR's (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix A, jitter strength 1).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

_RANGES = ("crop_scale", "crop_ratio", "blur_sigma")
_PROBABILITIES = ("flip_prob", "jitter_prob", "grayscale_prob", "blur_prob", "solarize_prob")


@dataclass(frozen=True)
class ViewPolicy:
    """What may happen to an image on its way to a view; `sample_view` draws from it.

    The operations come in the order of the fields: crop, flip, colour jitter, greyscale, blur, solarise.
    At 64 px and below use a milder one: `crop_scale=(0.2, 1.0)`, half the jitter strengths, `blur_prob=0`.
    MAE's view is a crop and a flip: `ViewPolicy(crop_scale=(0.2, 1.0), jitter_prob=0, grayscale_prob=0,
    blur_prob=0)`.

    Args:
        crop_scale: smallest and largest area of the crop, as a fraction of the image's area, in (0, 1].
        crop_ratio: smallest and largest width / height of the crop in the original image, above 0.
        flip_prob: probability of a horizontal flip.
        brightness, contrast, saturation: jitter strengths b: factors are uniform in [max(0, 1 - b), 1 + b].
        hue: jitter strength in [0, 0.5]: the shift is uniform in [-hue, hue] turns of the colour circle.
        jitter_prob: probability that the four jitter operations are applied, in a random order.
        grayscale_prob: probability of dropping colour.
        blur_prob: probability of a Gaussian blur.
        blur_sigma: smallest and largest standard deviation of the blur, in pixels of the view, above 0.
        blur_kernel_fraction: kernel width as a fraction of the view's side, in (0, 1]; made odd, at least 3.
        solarize_prob: probability of inverting all values from the threshold upwards.
        solarize_threshold: in [0, 255].

    Lists are accepted for pairs (YAML has no tuples) and become tuples.

    Raises:
        ValueError: a value outside the range given above.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_prob: float = 0.8
    grayscale_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel_fraction: float = 0.1
    solarize_prob: float = 0.0
    solarize_threshold: float = 128

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES:
                object.__setattr__(self, field.name, _checked_range(field.name, value))
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{field.name}={value!r} must be a number, such as {field.default}.")

        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability between 0 and 1.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be 0 (no change) or a positive number.")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue} must lie between 0 and 0.5 (half a turn of the colour circle).")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale={self.crop_scale} must not exceed 1, the area of the whole image.")
        if not 0 < self.blur_kernel_fraction <= 1:
            raise ValueError(f"blur_kernel_fraction={self.blur_kernel_fraction} must lie above 0 and not above 1.")
        if not 0 <= self.solarize_threshold <= 255:
            raise ValueError(f"solarize_threshold={self.solarize_threshold} must lie between 0 and 255.")


def _checked_range(name: str, value: object) -> tuple[float, float]:
    problem = f"{name}={value!r} must be two finite numbers above 0, the smaller first, such as [0.2, 1.0]."
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(problem)
    if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in value):
        raise ValueError(problem)
    low, high = value
    if not 0 < low <= high < float("inf"):
        raise ValueError(problem)
    return (float(low), float(high))
