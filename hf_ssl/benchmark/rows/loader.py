"""C1 to C4: views from JPEGs, the whole loader against lightly's, albumentations' and torchvision's on PIL.

A reading is an epoch from the first image to the last normalised float32 batch, threads or worker processes being
started with it. The images are the embedded textures, enlarged, which have the bytes per pixel of photographs.
"""

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
from hf_ssl.benchmark.checks import check_statistics
from hf_ssl.benchmark.measuring import Comparison, Experiment, Options, Row, Side, require_package
from hf_ssl.data import ImageLoader, make_textures, wrap_dataset
from hf_ssl.data.cache import decode_all
from hf_ssl.data.decoding import decode_reduced
from hf_ssl.data.sources import ImageSource
from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD

BATCH_SIZE = 32
DIFFERENT_IMAGES = 320
# Moments of normalised views; those of as many views drawn anew differ by a third of it.
TOLERANCE = 0.05

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
    for row in make_textures("train", num_images=DIFFERENT_IMAGES, size=128):
        file = io.BytesIO()
        row["image"].resize((side, side), PIL.Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
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


def our_epoch(
    side: int, num_images: int, policies: Sequence[ViewPolicy], output_size: int, is_decoded: bool = False
) -> Callable[[], torch.Tensor]:
    """One epoch of our loader on as many threads as torch has; gives the first batch."""
    images = source(side, num_images)
    threads = torch.get_num_threads()
    loader = ImageLoader(
        images,
        batch_size=BATCH_SIZE,
        image_size=side,
        num_threads=threads,
        decoded=decode_all(images, side, threads) if is_decoded else None,
        renderer=HostViews(policies, output_size, lambda index: torch.Generator().manual_seed(index)),
    )

    def call() -> torch.Tensor:
        batches = [normalize_views(batch.images, IMAGE_MEAN, IMAGE_STD) for batch in loader.epoch(0)]
        return batches[0]

    return call


def peer_epoch(side: int, num_images: int, transform: Callable[[PIL.Image.Image], Any]) -> Callable[[], torch.Tensor]:
    """One epoch of torch's DataLoader with as many worker processes; gives the first batch."""
    loader = torch.utils.data.DataLoader(
        OnPillow(side, num_images, transform),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=torch.get_num_threads(),
    )

    def call() -> torch.Tensor:
        first, *_ = loader
        return first if torch.is_tensor(first) else torch.stack(first, dim=1)

    return call


def compare_views(ours: Callable[[], torch.Tensor], peer: Callable[[], torch.Tensor]) -> Callable[[], str]:
    """A check that both give views of the same shape and moments."""
    return lambda: check_statistics(
        "views", *(torch.cat([call() for _ in range(8)]) for call in (ours, peer)), TOLERANCE
    )


def _simclr(
    side: int,
    output_size: int,
    policies: Sequence[ViewPolicy],
    peer_arguments: dict[str, float],
    num_images: int,
    goals: Sequence[tuple[str, bool, float, float | None]],
) -> Iterator[Experiment]:
    require_package("lightly")
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=output_size, **peer_arguments)
    peer = peer_epoch(side, num_images, transform)
    for label, is_decoded, goal, stretch in goals:
        ours = our_epoch(side, num_images, policies, output_size, is_decoded)
        yield Experiment(
            label=label,
            sides=(Side("hf_ssl", "", ours), Side("lightly", "", peer)),
            comparisons=(Comparison("hf_ssl", "lightly", goal=goal, stretch=stretch),),
            check=compare_views(ours, peer),
            images=num_images,
        )


def _c1(options: Options) -> Iterator[Experiment]:
    goals = (("JPEGs of 256 px", False, 10.0, 12.0), ("decoded once", True, None, None))
    yield from _simclr(256, 224, SIMCLR, {}, 640, goals)


def _c3(options: Options) -> Iterator[Experiment]:
    peer_arguments = {"cj_strength": 0.5, "min_scale": 0.2, "gaussian_blur": 0.0}
    goals = (("first epoch", False, 4.0, None), ("decoded once", True, 10.0, None))
    yield from _simclr(64, 64, SIMCLR_64, peer_arguments, 6400, goals)


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

    def ours() -> torch.Tensor:
        views = HostViews(SIMCLR, 224, lambda index: torch.Generator().manual_seed(index))
        batches = []
        for start in range(0, len(encoded), BATCH_SIZE):
            images, sizes = zip(
                *(decode_reduced(data, 256) for data in encoded[start : start + BATCH_SIZE]), strict=True
            )
            rendered, render_rows = views.start(start, len(images))
            render_rows(images, torch.tensor(sizes), slice(0, len(images)))
            batches.append(normalize_views(rendered, IMAGE_MEAN, IMAGE_STD))
        return batches[0]

    def peer() -> torch.Tensor:
        batches = []
        for start in range(0, len(encoded), BATCH_SIZE):
            images = [
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                for data in encoded[start : start + BATCH_SIZE]
            ]
            pairs = [torch.stack([pipeline(image=image)["image"] for _ in range(2)]) for image in images]
            batches.append(torch.stack(pairs))
        return batches[0]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield Experiment(
            label="JPEGs of 256 px",
            sides=(Side("hf_ssl", "", ours), Side("albumentations", "", peer)),
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
    peer = peer_epoch(256, 1280, transform)
    for label, is_decoded, goal, stretch in (
        ("JPEGs of 256 px", False, 4.0, 5.0),
        ("decoded once", True, None, None),
    ):
        ours = our_epoch(256, 1280, MAE, 224, is_decoded)
        yield Experiment(
            label=label,
            sides=(Side("hf_ssl", "", ours), Side("torchvision on PIL", "", peer)),
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
