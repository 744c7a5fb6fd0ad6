"""C1 to C4: views from JPEGs, the whole loader against lightly's, albumentations' and torchvision's on PIL.

A reading is an epoch from the first image to the last normalised float32 batch, threads or worker processes being
started with it. The images are the embedded textures, enlarged and tinted, with the bytes per pixel of photographs.
"""

import collections
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import datasets
import numpy as np
import PIL.Image
import torch

from hf_ssl.augment import HostViews, ViewPolicy, normalize_views
from hf_ssl.benchmark.measuring import CheckFailedError, Comparison, Experiment, Options, Row, Side, require_package
from hf_ssl.data import ImageLoader, make_textures, wrap_dataset
from hf_ssl.data.cache import decode_all
from hf_ssl.data.decoding import decode_reduced
from hf_ssl.data.sources import ImageSource
from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD

BATCH_SIZE = 32
# Small images come in the larger batches of their recipes.
BATCH_SIZE_64 = 256
CHECKED_VIEWS = 512
DIFFERENT_IMAGES = 320
STANDARD_ERRORS = 5

SIMCLR = (ViewPolicy(), ViewPolicy())
# Both sides' for small images: RECIPES' without blur, lightly's with half its jitter strength.
SIMCLR_64 = (
    ViewPolicy(
        crop_scale=(0.2, 1), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale_prob=0.2, blur_prob=0
    ),
) * 2
MAE = (ViewPolicy(crop_scale=(0.2, 1), jitter_prob=0, grayscale_prob=0, blur_prob=0),)


@functools.cache
def jpegs(side: int) -> list[bytes]:
    """Different square JPEGs of this side in pixels."""
    encoded = []
    # Textures are nearly grey, which would hide what happens to colours: each is seen through a reddish glass.
    tints = np.random.default_rng(0).uniform((0.9, 0.6, 0.4), (1.0, 0.8, 0.6), (DIFFERENT_IMAGES, 3))
    for row, tint in zip(make_textures("train", num_images=DIFFERENT_IMAGES, size=128), tints, strict=True):
        enlarged = np.asarray(row["image"].resize((side, side), PIL.Image.Resampling.BICUBIC))
        file = io.BytesIO()
        PIL.Image.fromarray((enlarged * tint).astype(np.uint8)).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def source(side: int, num_images: int) -> ImageSource:
    """The JPEGs over and over, as a data set."""
    encoded = jpegs(side)
    images = [{"bytes": encoded[row % len(encoded)], "path": None} for row in range(num_images)]
    features = datasets.Features(image=datasets.Image())
    rows = datasets.Dataset.from_dict({"image": images}, features=features)
    return wrap_dataset(rows, name=f"textures of {side} px", split="train", label_column=None)


class OnPillow(torch.utils.data.Dataset):
    """The JPEGs as torchvision's and lightly's users read them: Pillow, then a transform."""

    def __init__(self, side: int, num_images: int, transform: Callable[[PIL.Image.Image], Any]):
        self.encoded, self.num_images, self.transform = jpegs(side), num_images, transform

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, row: int) -> Any:
        with PIL.Image.open(io.BytesIO(self.encoded[row % len(self.encoded)])) as image:
            return self.transform(image.convert("RGB"))


Epoch = Callable[[], Iterator[torch.Tensor]]


def our_epoch(
    side: int,
    num_images: int,
    batch_size: int,
    policies: Sequence[ViewPolicy],
    output_size: int,
    is_decoded: bool = False,
) -> Epoch:
    """An epoch of our loader on as many threads as torch has, batch by batch."""
    images = source(side, num_images)
    threads = torch.get_num_threads()
    loader = ImageLoader(
        images,
        batch_size=batch_size,
        image_size=side,
        num_threads=threads,
        decoded=decode_all(images, side, threads) if is_decoded else None,
        renderer=HostViews(policies, output_size, lambda index: torch.Generator().manual_seed(index)),
    )
    # As in training: every batch takes the place of the one before.
    out = torch.empty(batch_size, len(policies), output_size, output_size, 3)
    return lambda: (normalize_views(batch.images, IMAGE_MEAN, IMAGE_STD, out) for batch in loader.epoch(0))


def peer_epoch(side: int, num_images: int, batch_size: int, transform: Callable[[PIL.Image.Image], Any]) -> Epoch:
    """An epoch of torch's DataLoader with as many worker processes, batch by batch."""
    loader = torch.utils.data.DataLoader(
        OnPillow(side, num_images, transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=torch.get_num_threads(),
    )
    return lambda: (batch if torch.is_tensor(batch) else torch.stack(batch, dim=1) for batch in loader)


def read(epoch: Epoch) -> Callable[[], Any]:
    """What is timed: all of an epoch, of which nothing is kept."""
    return lambda: collections.deque(epoch(), maxlen=0)


def compare_views(ours: Epoch, peer: Epoch) -> Callable[[], str]:
    """A check that both give views of one shape, their brightness, contrast, colour and detail distributed alike."""

    def check() -> str:
        return check_distributions(*(describe_views(some_views(epoch)) for epoch in (ours, peer)))

    return check


def some_views(epoch: Epoch) -> torch.Tensor:
    """The first views (N, 3, S, S) of an epoch, at least `CHECKED_VIEWS` of them if it has as many."""
    views: list[torch.Tensor] = []
    for batch in epoch():
        views.append(batch.flatten(0, -4).clone())
        if sum(map(len, views)) >= CHECKED_VIEWS:
            break
    return torch.cat(views)


def describe_views(views: torch.Tensor) -> dict[str, torch.Tensor]:
    """One number for each of N views (N, 3, S, S), normalised, by what it describes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    pixels = views * std + mean
    contrast = pixels.std((1, 2, 3)) + 0.01
    # The last three do not change with brightness and contrast, whose own spread would hide theirs.
    return {
        "brightness": pixels.mean((1, 2, 3)),
        "contrast": contrast,
        "colour": pixels.std(1).mean((1, 2)) / contrast,
        "redness": (pixels[:, 0] - pixels[:, 2]).mean((1, 2)) / (pixels.mean((1, 2, 3)) + 0.01),
        "detail": pixels.diff(dim=3).abs().mean((1, 2, 3)) / contrast,
    }


def check_distributions(ours: dict[str, torch.Tensor], peer: dict[str, torch.Tensor]) -> str:
    """Check that samples have the same mean and spread, to `STANDARD_ERRORS` of what chance alone makes of them.

    Raises:
        CheckFailedError: if one has not.
    """
    found = []
    for name in ours:
        a, b = ours[name].double(), peer[name].double()
        # Of the spread, by the mean of distances from the mean, whose own spread tells its standard error.
        for moment, x, y in (("mean", a, b), ("spread", (a - a.mean()).abs(), (b - b.mean()).abs())):
            error = (x.var() / len(x) + y.var() / len(y)).sqrt()
            apart = ((x.mean() - y.mean()) / error).item()
            # Not `abs(apart) > …`: NaN would pass.
            if not abs(apart) <= STANDARD_ERRORS:
                raise CheckFailedError(
                    f"{name} of the views: {moment} is {x.mean():.4f} and the peer's {y.mean():.4f}, {apart:.1f} "
                    f"standard errors apart (tolerance {STANDARD_ERRORS})"
                )
            found.append(abs(apart))
    return (
        f"{len(a)} views each: {', '.join(ours)} alike in mean and spread to {max(found):.1f} standard errors "
        f"(tolerance {STANDARD_ERRORS})"
    )


def _simclr(
    side: int,
    output_size: int,
    policies: Sequence[ViewPolicy],
    peer_arguments: dict[str, float],
    num_images: int,
    batch_size: int,
    goals: Sequence[tuple[str, bool, float, float | None]],
) -> Iterator[Experiment]:
    require_package("lightly")
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=output_size, **peer_arguments)
    peer = peer_epoch(side, num_images, batch_size, transform)
    for label, is_decoded, goal, stretch in goals:
        ours = our_epoch(side, num_images, batch_size, policies, output_size, is_decoded)
        yield Experiment(
            label=label,
            sides=(Side("hf_ssl", "", read(ours)), Side("lightly", "", read(peer))),
            comparisons=(Comparison("hf_ssl", "lightly", goal=goal, stretch=stretch),),
            check=compare_views(ours, peer),
            images=num_images,
        )


def _c1(options: Options) -> Iterator[Experiment]:
    goals = (("JPEGs of 256 px", False, 10.0, 12.0), ("decoded once", True, None, None))
    yield from _simclr(256, 224, SIMCLR, {}, 640, BATCH_SIZE, goals)


def _c3(options: Options) -> Iterator[Experiment]:
    peer_arguments = {"cj_strength": 0.5, "min_scale": 0.2, "gaussian_blur": 0.0}
    goals = (("first epoch", False, 4.0, None), ("decoded once", True, 10.0, None))
    yield from _simclr(64, 64, SIMCLR_64, peer_arguments, 6400, BATCH_SIZE_64, goals)


def _c2(options: Options) -> Iterator[Experiment]:
    require_package("albumentations")
    import albumentations

    pipeline = albumentations.Compose(
        [
            albumentations.RandomResizedCrop((224, 224), scale=(0.08, 1.0)),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            albumentations.ToGray(p=0.2),
            # A kernel as wide as σ needs: ours is cut there too.
            albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
            albumentations.Normalize(IMAGE_MEAN, IMAGE_STD),
            albumentations.ToTensorV2(),
        ]
    )
    encoded = jpegs(256)[: 4 * BATCH_SIZE]
    out = torch.empty(BATCH_SIZE, 2, 224, 224, 3)

    def ours() -> Iterator[torch.Tensor]:
        views = HostViews(SIMCLR, 224, lambda index: torch.Generator().manual_seed(index))
        for start in range(0, len(encoded), BATCH_SIZE):
            images, sizes = zip(
                *(decode_reduced(data, 256) for data in encoded[start : start + BATCH_SIZE]), strict=True
            )
            rendered, render_rows = views.start(start, len(images))
            render_rows(images, torch.tensor(sizes), slice(0, len(images)))
            yield normalize_views(rendered, IMAGE_MEAN, IMAGE_STD, out)

    def peer() -> Iterator[torch.Tensor]:
        for start in range(0, len(encoded), BATCH_SIZE):
            images = [
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                for data in encoded[start : start + BATCH_SIZE]
            ]
            pairs = [torch.stack([pipeline(image=image)["image"] for _ in range(2)]) for image in images]
            yield torch.stack(pairs)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield Experiment(
            label="JPEGs of 256 px",
            sides=(Side("hf_ssl", "", read(ours)), Side("albumentations", "", read(peer))),
            comparisons=(Comparison("hf_ssl", "albumentations", goal=1.5, stretch=2.0),),
            check=compare_views(ours, peer),
            images=len(encoded),
        )
    finally:
        torch.set_num_threads(threads)


def _c4(options: Options) -> Iterator[Experiment]:
    from torchvision import transforms

    # Bilinear like ours; the MAE repository's bicubic crops are slower.
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGE_MEAN, IMAGE_STD),
        ]
    )
    peer = peer_epoch(256, 1280, BATCH_SIZE, transform)
    for label, is_decoded, goal, stretch in (
        ("JPEGs of 256 px", False, 4.0, 5.0),
        ("decoded once", True, None, None),
    ):
        ours = our_epoch(256, 1280, BATCH_SIZE, MAE, 224, is_decoded)
        yield Experiment(
            label=label,
            sides=(Side("hf_ssl", "", read(ours)), Side("torchvision on PIL", "", read(peer))),
            comparisons=(Comparison("hf_ssl", "torchvision on PIL", goal=goal, stretch=stretch),),
            check=compare_views(ours, peer),
            images=1280,
        )


ROWS = (
    Row("C1", "loader", "two SimCLR views from a 256 px JPEG to 224 px, the whole loader", _c1),
    Row("C2", "loader", "two SimCLR views from a 256 px JPEG to 224 px, on one thread", _c2),
    Row("C3", "loader", "two SimCLR views from a 64 px JPEG to 64 px, the whole loader", _c3),
    Row("C4", "loader", "MAE's view from a 256 px JPEG to 224 px, the whole loader", _c4),
)
