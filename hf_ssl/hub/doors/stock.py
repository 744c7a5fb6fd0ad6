"""The doors of a repository that need no hf_ssl: plain transformers and timm.

Nothing of hf_ssl is imported here, so that this file runs as it is where hf_ssl is not installed. It writes what every
door of a repository gives for a picture, under the door's name; a repository is a folder or a Hub id:

    python stock.py PICTURE REPOSITORY OUT.safetensors [REPOSITORY OUT.safetensors …]
    python stock.py picture.jpg org/name@v1 doors.safetensors
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline


@dataclass(frozen=True)
class Repository:
    """Where a repository is.

    Attributes:
        name: path of a folder, or a Hub id "org/name".
        revision: branch, tag or commit on the Hub; of no meaning for a folder.
    """

    name: str
    revision: str = "main"

    @property
    def is_folder(self) -> bool:
        """Whether it lies here, as transformers decides it too."""
        return Path(self.name).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers is told beside the name; code that a repository brings along is not run."""
        return {"revision": self.revision, "trust_remote_code": False}

    @property
    def timm_name(self) -> str:
        """What `timm.create_model` calls it."""
        return f"local-dir:{self.name}" if self.is_folder else f"hf-hub:{self.name}@{self.revision}"


@dataclass(frozen=True)
class Door:
    """One way to open a repository.

    Attributes:
        name: what it is called in tables and messages.
        gives: "pixels" (1, 3, height, width), "features" (1, features), "logits" (1, classes) or "scores" (names,),
            see `scores_by_name`.
        line: the code that opens it, for the docs; `picture` is a PIL image and `pixels` what the image processor
            makes of it.
        open: opens it and gives this for a picture, float32; None if the encoder is of a kind that has no such door.
    """

    name: str
    gives: str
    line: str
    open: Callable[[Repository, Image.Image], Tensor | None]


def parse_repository(text: str) -> Repository:
    """A folder if there is one of this name, otherwise a Hub id, maybe with a revision: "org/name@revision"."""
    if Path(text).is_dir():
        return Repository(text)
    name, at, revision = text.partition("@")
    return Repository(name, revision) if at else Repository(name)


def load_picture(path: str | Path) -> Image.Image:
    """An image file as RGB and upright, as the pipelines read it."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def scores_by_name(names: Iterable[str], answers: Iterable[tuple[str, float]]) -> Tensor:
    """The sum of the scores that answers give each distinct name, as two classes may share one."""
    totals = dict.fromkeys(names, 0.0)
    for name, score in answers:
        totals[name] += score
    return torch.tensor(list(totals.values()))


def image_processor(repository: Repository, picture: Image.Image) -> Tensor:
    """Pixels of transformers' image processor."""
    processor = AutoImageProcessor.from_pretrained(repository.name, **repository.arguments)
    return processor(picture, return_tensors="pt")["pixel_values"]


def timm_transform(model: nn.Module, picture: Image.Image) -> Tensor:
    """Pixels of timm's own transform for evaluation."""
    return timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)(picture)[None]


def auto_model(repository: Repository, picture: Image.Image) -> Tensor:
    """Features of transformers' AutoModel."""
    model = AutoModel.from_pretrained(repository.name, **repository.arguments)
    return model(image_processor(repository, picture)).pooler_output


def feature_pipeline(repository: Repository, picture: Image.Image) -> Tensor:
    """Features of the pipeline, which gives the last hidden state unless `pool` asks for the pooled one."""
    # On the CPU like every other door: an accelerator multiplies with less precision.
    extractor = pipeline(
        "image-feature-extraction", model=repository.name, device="cpu", pool=True, **repository.arguments
    )
    return extractor(picture, return_tensors=True)


def timm_features(repository: Repository, picture: Image.Image) -> Tensor:
    """Features of timm's model without its classifier."""
    model = timm.create_model(repository.timm_name, pretrained=True, num_classes=0).eval()
    return model(timm_transform(model, picture))


def timm_maps(repository: Repository, picture: Image.Image) -> Tensor | None:
    """The last of the feature maps that detection and segmentation build on, pooled as the encoder pools it.

    Of ResNets only: other kinds of encoder normalise between the map and the features.
    """
    whole = timm.create_model(repository.timm_name, pretrained=False)
    if not isinstance(whole, timm.models.ResNet):
        return None
    model = timm.create_model(repository.timm_name, pretrained=True, features_only=True).eval()
    return whole.global_pool(model(timm_transform(whole, picture))[-1])


def auto_classifier(repository: Repository, picture: Image.Image) -> Tensor:
    """Logits of transformers' AutoModelForImageClassification."""
    model = AutoModelForImageClassification.from_pretrained(repository.name, **repository.arguments)
    return model(image_processor(repository, picture)).logits


def timm_classifier(repository: Repository, picture: Image.Image) -> Tensor:
    """Logits of timm's model."""
    model = timm.create_model(repository.timm_name, pretrained=True).eval()
    return model(timm_transform(model, picture))


def classification_pipeline(repository: Repository, picture: Image.Image) -> Tensor:
    """Scores of all classes by the pipeline, in the order in which its config names them."""
    classifier = pipeline("image-classification", model=repository.name, device="cpu", **repository.arguments)
    config = classifier.model.config
    answers = classifier(picture, top_k=config.num_labels)
    return scores_by_name(config.id2label.values(), ((answer["label"], answer["score"]) for answer in answers))


STOCK_DOORS = (
    Door(
        "AutoImageProcessor",
        "pixels",
        'AutoImageProcessor.from_pretrained("org/name")(picture)["pixel_values"]',
        image_processor,
    ),
    Door("AutoModel", "features", 'AutoModel.from_pretrained("org/name")(pixels).pooler_output', auto_model),
    Door(
        "pipeline, image-feature-extraction",
        "features",
        'pipeline("image-feature-extraction", model="org/name", pool=True)(picture, return_tensors=True)',
        feature_pipeline,
    ),
    Door(
        "timm, num_classes=0",
        "features",
        'timm.create_model("hf-hub:org/name", pretrained=True, num_classes=0).eval()(pixels)',
        timm_features,
    ),
    Door(
        "timm, features_only=True",
        "features",
        'timm.create_model("hf-hub:org/name", pretrained=True, features_only=True).eval()(pixels)[-1].mean((2, 3))',
        timm_maps,
    ),
    Door(
        "AutoModelForImageClassification",
        "logits",
        'AutoModelForImageClassification.from_pretrained("org/name")(pixels).logits',
        auto_classifier,
    ),
    Door(
        "timm",
        "logits",
        'timm.create_model("hf-hub:org/name", pretrained=True).eval()(pixels)',
        timm_classifier,
    ),
    Door(
        "pipeline, image-classification",
        "scores",
        'pipeline("image-classification", model="org/name")(picture)',
        classification_pipeline,
    ),
)


@torch.no_grad()
def main(argv: Sequence[str]) -> None:
    """Write what every door gives for a picture, one file for each repository."""
    picture, *pairs = argv or [""]
    if not pairs or len(pairs) % 2:
        sys.exit(__doc__)
    image = load_picture(picture)
    for repository, output in zip(pairs[::2], pairs[1::2], strict=True):
        given = {door.name: door.open(parse_repository(repository), image) for door in STOCK_DOORS}
        save_file({name: tensor.contiguous() for name, tensor in given.items() if tensor is not None}, output)


if __name__ == "__main__":
    main(sys.argv[1:])
