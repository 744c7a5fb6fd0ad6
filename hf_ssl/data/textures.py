"""The embedded data set: small labelled pictures of near-grey textures, drawn when they are needed.

Twenty classes: ten pattern families, each fine and coarse. Orientation, phase, wavelength, contrast,
polarity, lighting and noise are drawn anew for every picture and say nothing about its class; every pattern
has mean 0 and variance 1 before its contrast is drawn. So no single pixel tells the class (raw pixels do
badly), and there is no palette or brightness that a contrastive learner could use instead of the pattern. The
schema is that of ImageNet-100 on the Hub: `image` (JPEG bytes) and `label` (ClassLabel).
"""

import functools
import io
from collections.abc import Callable

import datasets
import numpy as np
import PIL.Image

DEFAULT_NUM_IMAGES = {"train": 8000, "validation": 2000}

# Wavelengths in pixels: long enough to survive JPEG and a stride of 2, short enough to repeat within 32.
WAVELENGTHS = {"fine": (3.8, 5.2), "coarse": (8.0, 11.0)}

_JPEG_QUALITY = 90


@functools.cache
def make_textures(split: str, num_images: int | None = None, size: int = 32, seed: int = 0) -> datasets.Dataset:
    """Draw one split of the textures, the same for the same arguments; 8,000 take about 2 s, once a process.

    Args:
        split: "train" or "validation", drawn independently of each other.
        num_images: number of rows, all classes equally often up to one; 8,000 and 2,000 by default.
        size: side of the square pictures in pixels. Wavelengths are in pixels too: more size, more periods.
        seed: seed of everything that is drawn.

    Raises:
        ValueError: unknown split.
    """
    if split not in DEFAULT_NUM_IMAGES:
        raise ValueError(f"'embedded' has no split {split!r}: set the split to one of {sorted(DEFAULT_NUM_IMAGES)}.")
    if num_images is None:
        num_images = DEFAULT_NUM_IMAGES[split]
    rng = np.random.default_rng((seed, list(DEFAULT_NUM_IMAGES).index(split)))
    labels = rng.permutation(np.arange(num_images) % len(CLASS_NAMES))
    pictures = np.empty((num_images, size, size, 3), np.uint8)
    for label, name in enumerate(CLASS_NAMES):
        family, band = name.split()
        rows = labels == label
        pattern = _draw_pattern(FAMILIES[family], WAVELENGTHS[band], rows.sum(), size, rng)
        pictures[rows] = _light(pattern, rng)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=CLASS_NAMES))
    images = [{"bytes": _encode(picture), "path": None} for picture in pictures]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def _draw_pattern(family: Callable, wavelengths: tuple[float, float], count: int, size: int, rng) -> np.ndarray:
    """Draw `count` patterns of one class, float64 (count, size, size), each of mean 0 and variance 1."""

    def draw(low, high):
        return rng.uniform(low, high, (count, 1, 1))

    angle = draw(0, 2 * np.pi)
    per_pixel = 2 * np.pi / draw(*wavelengths)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    # Anywhere within the picture lies the origin: the centre of rings, the phase of all others.
    x = x - draw(-size / 4, size / 4)
    y = y - draw(-size / 4, size / 4)
    u = per_pixel * (np.cos(angle) * x + np.sin(angle) * y)
    v = per_pixel * (np.cos(angle) * y - np.sin(angle) * x)
    pattern = family(u, v, rng)
    pattern = pattern - pattern.mean((1, 2), keepdims=True)
    polarity = rng.choice([-1.0, 1.0], (count, 1, 1))
    return polarity * pattern / pattern.std((1, 2), keepdims=True)


def _light(pattern: np.ndarray, rng) -> np.ndarray:
    """Give patterns contrast, lighting and noise: uint8 (count, size, size, 3), near grey."""
    count, size, _ = pattern.shape
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]

    def draw(low, high, channels=1):
        return rng.uniform(low, high, (count, 1, 1, channels))

    picture = draw(0.4, 0.6) + draw(0.07, 0.2) * pattern[..., None]
    # One gradient for all channels, and a weaker one in each: light from a side, hardly coloured.
    for scale, channels in ((0.08, 1), (0.015, 3)):
        gradient = draw(-scale, scale, channels) * x[..., None] + draw(-scale, scale, channels) * y[..., None]
        picture = picture + gradient + draw(-0.01, 0.01, channels)
    picture = picture + draw(0.02, 0.06) * rng.standard_normal((count, size, size, 1))
    return (255 * picture.clip(0, 1)).round().astype(np.uint8)


def _encode(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


# The families: functions of two coordinates u, v (count, size, size) in radians, 2 pi to the wavelength,
# already rotated and shifted. tanh hardens an edge without the aliasing that a step would bring.


def _stripes(u, v, rng):
    return np.sin(u)


def _waves(u, v, rng):
    return np.sin(u + 1.6 * np.sin(v / 2))


def _checks(u, v, rng):
    return np.tanh(4 * np.sin(u * np.sqrt(0.5)) * np.sin(v * np.sqrt(0.5)))


def _dots(u, v, rng):
    return np.tanh(3 * (np.cos(u) + np.cos(v) - 0.8))


def _grid(u, v, rng):
    return np.tanh(5 * (np.maximum(np.cos(u), np.cos(v)) - 0.75))


def _bricks(u, v, rng):
    # Courses one wavelength high and two long, every other one shifted by half a brick.
    course = np.floor(u / (2 * np.pi))
    joints = np.cos(v / 2 + np.pi * (course % 2)) - 0.25
    return np.tanh(5 * (np.maximum(np.cos(u), joints) - 0.7))


def _honeycomb(u, v, rng):
    waves = [np.cos(np.cos(a) * u + np.sin(a) * v) for a in (0, np.pi / 3, 2 * np.pi / 3)]
    return np.tanh(2 * sum(waves))


def _rings(u, v, rng):
    return np.sin(np.hypot(u, v))


def _clouds(u, v, rng):
    # Waves of one wavelength from all directions: no orientation, no lattice.
    count = len(u)
    total = np.zeros_like(u)
    for direction in np.linspace(0, np.pi, 12, endpoint=False):
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
        amplitude = rng.uniform(0.5, 1, (count, 1, 1))
        total += amplitude * np.sin(np.cos(direction) * u + np.sin(direction) * v + phase)
    return total


def _weave(u, v, rng):
    # A basket: squares of stripes, their direction alternating.
    along_u = np.sin(u / 3) * np.sin(v / 3) > 0
    return np.where(along_u, np.sin(u), np.sin(v))


FAMILIES: dict[str, Callable] = {
    "stripes": _stripes,
    "waves": _waves,
    "checks": _checks,
    "dots": _dots,
    "grid": _grid,
    "bricks": _bricks,
    "honeycomb": _honeycomb,
    "rings": _rings,
    "clouds": _clouds,
    "weave": _weave,
}
CLASS_NAMES = [f"{family} {band}" for family in FAMILIES for band in WAVELENGTHS]
