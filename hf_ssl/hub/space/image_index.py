"""An index of training images: the features that each model gives them, their classes, and small pictures."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import normalize

from hf_ssl.augment import center_view, render_view
from hf_ssl.data import ImageBatch, ImageLoader, ImageSource
from hf_ssl.data.sources import is_local
from hf_ssl.hub.space.demo_model import DemoModel

FEATURES, PICTURES = "features.safetensors", "pictures.zip"
LABELS, FEATURES_OF = "labels", "features/"
BATCH_SIZE = 64
# Of the pictures shown, in pixels.
PICTURE_SIDE = 128


@dataclass(frozen=True)
class Neighbor:
    """An image of the index.

    Args:
        number: its place in the index.
        similarity: cosine of the angle between its features and the picture's.
        class_name: its class; None where the data names none.
        picture: a small JPEG.
    """

    number: int
    similarity: float
    class_name: str | None
    picture: bytes


@dataclass(frozen=True)
class ImageIndex:
    """N training images.

    Args:
        dataset: where they come from.
        split: likewise.
        class_names: in the order of the labels; None where the data names none.
        labels: int64 (N,), −1 where the data has none.
        features: of each model by its name, float32 (N, D), each row of length 1.
        pictures: N small JPEGs, the central square of each image.
    """

    dataset: str
    split: str
    class_names: list[str] | None
    labels: torch.Tensor
    features: dict[str, torch.Tensor]
    pictures: list[bytes]

    def nearest(self, model: str, features: torch.Tensor, count: int) -> list[Neighbor]:
        """The `count` images whose features by the model `model` are nearest to features (D,), nearest first."""
        cosines = self.features[model] @ normalize(features.float(), dim=0)
        similarities, numbers = cosines.topk(min(count, len(cosines)))
        return [
            Neighbor(number, similarity, self._class_name(number), self.pictures[number])
            for number, similarity in zip(numbers.tolist(), similarities.tolist(), strict=True)
        ]

    def _class_name(self, number: int) -> str | None:
        label = self.labels[number].item()
        return None if self.class_names is None or label < 0 else self.class_names[label]

    def write(self, folder: Path) -> None:
        """Write two files: features in float16 with the labels, and the pictures."""
        folder.mkdir()
        tensors = {FEATURES_OF + name: features.half() for name, features in self.features.items()}
        about = {"dataset": self.dataset, "split": self.split, "class_names": json.dumps(self.class_names)}
        save_file({**tensors, LABELS: self.labels}, folder / FEATURES, metadata=about)
        with zipfile.ZipFile(folder / PICTURES, "w") as file:
            for number, picture in enumerate(self.pictures):
                # Without a date the same images give the same bytes.
                file.writestr(zipfile.ZipInfo(f"{number:06d}.jpg"), picture)

    @classmethod
    def read(cls, folder: Path) -> "ImageIndex":
        """Read what `write` wrote."""
        with safe_open(folder / FEATURES, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        with zipfile.ZipFile(folder / PICTURES) as file:
            pictures = [file.read(name) for name in sorted(file.namelist())]
        return cls(
            dataset=about["dataset"],
            split=about["split"],
            class_names=json.loads(about["class_names"]),
            labels=tensors.pop(LABELS),
            features={name.removeprefix(FEATURES_OF): tensor.float() for name, tensor in tensors.items()},
            pictures=pictures,
        )


def index_images(models: Sequence[DemoModel], source: ImageSource, num_images: int) -> ImageIndex:
    """Encode images of a source with every model.

    Args:
        models: at least one.
        source: the images.
        num_images: how many to take, at least 1, as `read_some` takes them; all if the source has fewer.

    Raises:
        ValueError: an image has a label that is no class of the source.
    """
    features = {}
    for model in models:
        images = read_some(source, num_images, model.storage_size)
        _check_labels(images.labels, source)
        batches = zip(images.images.split(BATCH_SIZE), images.sizes.split(BATCH_SIZE), strict=True)
        encoded = [model.encode(model.view(*batch))[0] for batch in batches]
        features[model.name] = normalize(torch.cat(encoded), dim=1)
    return ImageIndex(
        dataset=public_name(source),
        split=source.split,
        class_names=source.class_names,
        labels=images.labels,
        features=features,
        pictures=_draw_small(images),
    )


def read_some(source: ImageSource, num_images: int, image_size: int) -> ImageBatch:
    """Images in a seeded random order, decoded to squares of `image_size` pixels: the same ones for every size."""
    num_images = min(num_images, source.num_rows)
    loader = ImageLoader(source, batch_size=min(BATCH_SIZE, num_images), image_size=image_size, drop_last=False)
    batches = list(islice(loader.epoch(0), -(-num_images // loader.order.batch_size)))
    images, sizes, labels = (
        torch.cat([getattr(batch, name) for batch in batches])[:num_images] for name in ("images", "sizes", "labels")
    )
    return ImageBatch(images, sizes, labels)


def public_name(source: ImageSource) -> str:
    """The name of a source without the place of a folder on this machine."""
    return PurePosixPath(source.name).name if is_local(source.name, source.revision) else source.name


def _check_labels(labels: torch.Tensor, source: ImageSource) -> None:
    if source.class_names is None:
        return
    # −1 says that an image has no label.
    outside = labels[(labels < -1) | (labels >= len(source.class_names))]
    if len(outside):
        raise ValueError(
            f"{public_name(source)!r} ({source.split}) has an image of class {outside[0].item()} and names "
            f"{len(source.class_names)} classes; labels go from 0 to {len(source.class_names) - 1}, or are -1 for "
            "none: correct them, or choose another split or data set."
        )


def _draw_small(images: ImageBatch) -> list[bytes]:
    """JPEGs of the central square of every image, `PICTURE_SIDE` pixels wide at most."""
    side = min(PICTURE_SIDE, images.images.shape[-1])
    jpegs = []
    for batch, sizes in zip(images.images.split(BATCH_SIZE), images.sizes.split(BATCH_SIZE), strict=True):
        squares = render_view(batch, center_view(sizes, 1.0), side, (0, 0, 0), (1, 1, 1))
        for pixels in (squares * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy():
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=90)
            jpegs.append(file.getvalue())
    return jpegs
