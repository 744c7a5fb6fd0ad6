"""Every door of a repository opened on one picture, and how far apart is what they give.

The reference is the complete pretraining model, which all else in a repository was derived from: the features of its
own encoder, `AutoModel` on `pretraining/`, for the pixels that transformers' image processor makes of the picture. For
logits the classifier in the root's model.safetensors is applied to these features, for scores their softmax is taken.
Pixels are compared with those of timm's own transform.

A difference is the largest one, as a share of the reference's largest value. The doors run the same operations on the
same float32 weights, at most in another order, which makes some 1e-6; weights in half precision make 1e-4 and more.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import MODEL_FOR_PRETRAINING_MAPPING, AutoModel, PreTrainedConfig
from transformers.utils import logging

import hf_ssl  # noqa: F401  registers the models with the Auto classes
from hf_ssl.augment import center_view, render_view
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.sources import is_hub_id
from hf_ssl.evaluation.compare import format_table
from hf_ssl.evaluation.results import read_results
from hf_ssl.hub.card.markdown import code
from hf_ssl.hub.doors.stock import (
    STOCK_DOORS,
    Door,
    Repository,
    image_processor,
    load_picture,
    parse_repository,
    scores_by_name,
    timm_transform,
)
from hf_ssl.hub.publish.client import explain, redact
from hf_ssl.hub.repository.layout import check_root_config
from hf_ssl.models.opening import open_config

TOLERANCE = 1e-4
# Means and deviations are decimals that pass through JSON.
NORMALISATION_TOLERANCE = 1e-6
EVALUATION_VIEW = "AutoImageProcessor, evaluation view"


@dataclass(frozen=True)
class DoorRow:
    """How far apart from the reference it is what a door gives.

    Attributes:
        door: name of the door, or `EVALUATION_VIEW`.
        what: what was compared; with its unit, if it is not a share of the reference's largest value.
        max_difference: the largest difference.
        tolerance: the largest one that passes; None where it is stated and not judged.
    """

    door: str
    what: str
    max_difference: float
    tolerance: float | None


def check_doors(repository: str | Path, picture: Path | None = None) -> list[DoorRow]:
    """Open every door of a repository and compare what they give.

    The last rows have the `EVALUATION_VIEW`, what hf_ssl's probe makes of the picture, beside the image processor's
    pixels. These two resize in different ways, so the tolerance there is the largest step between neighbouring pixels,
    which is what moving the picture by one pixel would make.

    Args:
        repository: a repository folder, or a Hub id "org/name" or "org/name@revision".
        picture: an image file; a smooth, not square picture is made if none is given.

    Returns:
        One row for each door, without `features_only` where the encoder is no ResNet.

    Raises:
        ValueError: a door does not open, or gives something else; the message names it.
        FileNotFoundError: the folder does not exist, or lacks a file of a repository.
        OSError: the Hub or the picture cannot be read.
    """
    place = parse_repository(str(repository))
    results = read_results(_fetch(place, "results.json"))
    if "evaluation" not in results:
        raise ValueError(f"The results.json of '{place.name}' has no evaluation; write it anew with `hf-ssl card`.")
    check_root_config(json.loads(_fetch(place, "config.json").read_text(encoding="utf-8")), place.name)
    weights = _fetch(place, "model.safetensors")
    image = make_picture() if picture is None else load_picture(picture)
    with torch.no_grad(), _without_load_reports():
        with _naming("AutoImageProcessor", place):
            pixels = image_processor(place, image)
        with _naming(ENCODER_DOOR.name, place):
            encoder = _open_encoder(place)
            features = encoder(pixels).pooler_output
        with _naming("timm", place):
            stock = timm.create_model(place.timm_name, pretrained=False)
        with _naming("AutoModelForImageClassification", place):
            logits = _load_classifier(stock, weights)(features)
        with _naming("pipeline, image-classification", place):
            names = stock.pretrained_cfg["label_names"]
            # Another number of names than of classes shows below, as another number of scores.
            scores = scores_by_name(names, zip(names, logits[0].softmax(-1).tolist(), strict=False))
        expected = {
            "pixels": timm_transform(stock, image),
            "features": features,
            "logits": logits,
            "scores": scores,
        }
        rows = []
        for door in (*STOCK_DOORS, *OWN_DOORS):
            with _naming(door.name, place):
                given = door.open(place, image)
            if given is not None:
                rows.append(_compare(door, given, expected[door.gives], place))
        with _naming(EVALUATION_VIEW, place):
            view = _show(image, encoder.config, results)
        return rows + _compare_view(view, pixels, encoder, timm.data.resolve_model_data_config(stock), place)


def doors_table(repositories: Sequence[str], picture: Path | None = None) -> str:
    """Doors against repositories as a Markdown table that reads well in a terminal too.

    Args:
        repositories: folders or Hub ids, as in `check_doors`.
        picture: as in `check_doors`.

    Raises:
        ValueError, OSError: as `check_doors`.
    """
    checked = [{(row.door, row.what): row for row in check_doors(repository, picture)} for repository in repositories]
    order = [door.name for door in (*STOCK_DOORS, *OWN_DOORS)] + [EVALUATION_VIEW]
    keys = sorted({key: None for rows in checked for key in rows}, key=lambda key: order.index(key[0]))
    table = []
    for key in keys:
        rows = [found.get(key) for found in checked]
        tolerances = dict.fromkeys(_number(row.tolerance) for row in rows if row)
        table.append([*key, *(_number(row and row.max_difference) for row in rows), " / ".join(tolerances)])
    return format_table(["door", "gives", *map(code, repositories), "tolerance"], table)


def make_picture() -> Image.Image:
    """A smooth picture, the same each time, wider than high, so that resizing and cropping matter."""
    grid = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    values = interpolate(grid, (240, 320), mode="bicubic")[0].clamp(0, 1)
    return Image.fromarray((values * 255).round().byte().permute(1, 2, 0).numpy())


def pretraining_encoder(repository: Repository, picture: Image.Image) -> Tensor:
    """Features of AutoModel on `pretraining/`."""
    return _open_encoder(repository)(image_processor(repository, picture)).pooler_output


def pretraining_model(repository: Repository, picture: Image.Image) -> Tensor:
    """Features of the complete pretraining model, opened by its own class, as the timm model that it gives away."""
    config = open_config(repository.name, "pretraining", repository.revision)
    model_class = MODEL_FOR_PRETRAINING_MAPPING[type(config)]
    model = model_class.from_pretrained(repository.name, subfolder="pretraining", revision=repository.revision)
    return model.to_timm().eval()(image_processor(repository, picture))


ENCODER_DOOR = Door(
    "AutoModel, pretraining/",
    "features",
    'AutoModel.from_pretrained("org/name", subfolder="pretraining", trust_remote_code=False)(pixels).pooler_output',
    pretraining_encoder,
)
OWN_DOORS = (
    ENCODER_DOOR,
    Door(
        "…ForPreTraining, pretraining/",
        "features",
        '…ForPreTraining.from_pretrained("org/name", subfolder="pretraining").to_timm().eval()(pixels)',
        pretraining_model,
    ),
)


def _open_encoder(place: Repository) -> nn.Module:
    config = open_config(place.name, "pretraining", place.revision)
    return AutoModel.from_pretrained(place.name, subfolder="pretraining", config=config, **place.arguments)


def _fetch(place: Repository, file: str) -> Path:
    if place.is_folder:
        path = Path(place.name, file)
        if not path.is_file():
            raise FileNotFoundError(
                f"'{place.name}' lacks {file} and is no repository folder; give what `hf-ssl card` wrote."
            )
        return path
    if not is_hub_id(place.name):
        raise FileNotFoundError(
            f"There is no folder '{place.name}', and it is no Hub id; give what `hf-ssl card` wrote, or ORG/NAME."
        )
    # Not through call_hub: a download waits and tries again by itself, half a minute where there is no network.
    try:
        return Path(hf_hub_download(place.name, file, revision=place.revision))
    except (HTTPError, OSError) as error:
        raise explain(error, f"download {file} of {place.name} at {place.revision}") from error


@contextmanager
def _without_load_reports() -> Iterator[None]:
    """transformers reports that AutoModel has no use for a classifier; what is really missing shows in the numbers."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _naming(door: str, place: Repository) -> Iterator[None]:
    try:
        yield
    # The libraries raise almost anything on a repository that is not as it should be.
    except Exception as error:
        said = redact(" ".join(str(error).split())).rstrip(".")
        raise ValueError(
            f"The door '{door}' of '{place.name}' does not open ({type(error).__name__}: {said}); write the "
            "repository anew with `hf-ssl card`."
        ) from error


def _load_classifier(stock: nn.Module, weights: Path) -> nn.Module:
    """The classifier alone, read from the file and not by one of the doors."""
    classifier, name = stock.get_classifier(), stock.pretrained_cfg["classifier"]
    with safe_open(weights, framework="pt") as file:
        classifier.load_state_dict({part: file.get_tensor(f"{name}.{part}") for part in ("weight", "bias")})
    return classifier


def _compare(door: Door, given: Tensor, expected: Tensor, place: Repository) -> DoorRow:
    _check_shape(door.name, door.gives, given, expected, place)
    return _judge(DoorRow(door.name, door.gives, _share(given, expected), TOLERANCE), place)


def _compare_view(
    view: Tensor, pixels: Tensor, encoder: nn.Module, normalisation: dict[str, Any], place: Repository
) -> list[DoorRow]:
    """The view of the probe beside the pixels of the image processor."""
    _check_shape(EVALUATION_VIEW, "pixels", pixels, view, place)
    mine = torch.tensor([encoder.config.image_mean, encoder.config.image_std])
    theirs = torch.tensor([normalisation["mean"], normalisation["std"]])
    offset = (mine - theirs).abs().max().item()
    levels = 255 * mine[1, :, None, None]
    seen, shown = pixels * levels, view * levels
    distance = (seen - shown).abs().max().item()
    step = max(seen.diff(dim=dimension).abs().max().item() for dimension in (2, 3))
    change = _share(encoder(pixels).pooler_output, encoder(view).pooler_output)
    return [
        _judge(DoorRow(EVALUATION_VIEW, "mean and std", offset, NORMALISATION_TOLERANCE), place),
        _judge(DoorRow(EVALUATION_VIEW, "pixels, in levels of 255", distance, step), place),
        DoorRow(EVALUATION_VIEW, "features of these pixels", change, None),
    ]


def _show(picture: Image.Image, config: PreTrainedConfig, results: dict[str, Any]) -> Tensor:
    """A picture as the probe showed such to the encoder, (1, 3, image_size, image_size) float32."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    stored, size = decode_image(
        file.getvalue(), results["pretraining"]["arguments"]["storage_size"] or config.image_size
    )
    parameters = center_view(torch.tensor([size]), results["evaluation"]["crop_fraction"])
    images = torch.from_numpy(stored).permute(2, 0, 1)[None]
    return render_view(images, parameters, config.image_size, config.image_mean, config.image_std)


def _share(given: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return ((given - expected).abs().max() / scale).item()


def _check_shape(door: str, what: str, given: Tensor, expected: Tensor, place: Repository) -> None:
    if given.shape != expected.shape:
        raise ValueError(
            f"The door '{door}' of '{place.name}' gives {what} of shape {tuple(given.shape)}, where "
            f"{tuple(expected.shape)} is due; write the repository anew with `hf-ssl card`."
        )


def _judge(row: DoorRow, place: Repository) -> DoorRow:
    # Not "above", which NaN is not.
    if not row.max_difference <= row.tolerance:
        raise ValueError(
            f"The door '{row.door}' of '{place.name}' differs by {row.max_difference:.2g} ({row.what}), where "
            f"{row.tolerance:.2g} is allowed; write the repository anew with `hf-ssl card`."
        )
    return row


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
