"""`hf-ssl export`: an encoder in transformers' stock layout, for people who have neither hf_ssl nor timm.

What is written is loaded again and compared with the encoder first: nothing is left of an export that differs.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import ModelCardData, snapshot_download
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    BitImageProcessor,
)
from transformers.utils import logging

import hf_ssl  # noqa: F401  registers the methods with AutoModelForPreTraining
from hf_ssl.data.sources import is_hub_id
from hf_ssl.evaluation.compare import results_table
from hf_ssl.evaluation.probe_run import PROBE
from hf_ssl.evaluation.results import read_results
from hf_ssl.hub.card.markdown import plain
from hf_ssl.hub.card.model_card import LICENSE
from hf_ssl.hub.convert.layouts import POOLED, Layout, stock_layout
from hf_ssl.hub.publish.client import call_hub
from hf_ssl.hub.repository.public import public_results
from hf_ssl.models.encoder import create_encoder
from hf_ssl.models.opening import open_config

# Of the largest output: what another order of the same sums makes in float32, and no difference of the models.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Source:
    """An encoder and what it was measured with.

    Attributes:
        name: what it is called: a folder's name, or a Hub id.
        encoder: the timm model in float32 and evaluation mode, with the probe as its classifier if there is one.
        image_size: side of the images in pixels.
        image_mean: 3 channel means of pixels in [0, 1].
        image_std: 3 channel standard deviations.
        crop_fraction: share of an image's shorter side that is seen.
        interpolation: how images are resized, in timm's words.
        class_names: names of the classifier's outputs; None without a classifier.
        results: the content of results.json; None if the encoder was not evaluated.
    """

    name: str
    encoder: nn.Module
    image_size: int
    image_mean: list[float]
    image_std: list[float]
    crop_fraction: float
    interpolation: str
    class_names: list[str] | None
    results: dict[str, Any] | None


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: where.
        architecture: the stock class, such as "ResNetForImageClassification".
        difference: the largest difference of any of its outputs from the encoder's.
    """

    folder: Path
    architecture: str
    difference: float

    @property
    def nearness(self) -> str:
        """How near the outputs are, as the rest of a sentence."""
        if self.difference == 0:
            return "equal the encoder's to the bit"
        return f"differ from the encoder's by {self.difference:.1e} at most"


def export_transformers(source: str, output: Path) -> Export:
    """Write an encoder as a folder that plain transformers loads: config, weights, image processor and README.

    The classifier of the linear probe comes along where the stock model has a place for it: behind the class token of
    a ViT or the mean of a ResNet's last map.

    Args:
        source: a run, a repository folder, or the Hub id of a repository, maybe "org/name@revision".
        output: the folder to write, which must not exist.

    Raises:
        FileNotFoundError: if there is no such source.
        FileExistsError: if `output` exists.
        ValueError: if the stock model cannot hold the encoder, or gives other features; nothing is written then.
        OSError: if the Hub cannot be reached.
    """
    if output.exists():
        raise FileExistsError(f"'{output}' exists already; choose another folder, or remove it.")
    opened = open_source_model(source)
    target = output.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch, target.name)
        folder.mkdir()
        layout = stock_layout(opened.encoder, opened.class_names)
        layout.config.save_pretrained(folder)
        save_file(layout.weights, folder / "model.safetensors", metadata={"format": "pt"})
        _image_processor(opened).save_pretrained(folder)
        export = Export(output, layout.config.architectures[0], _check(folder, opened, layout))
        (folder / "README.md").write_text(_readme(export, opened, layout), encoding="utf-8")
        folder.rename(target)
    return export


def open_source_model(source: str) -> Source:
    """Open the encoder of a run, of an imported model, of a repository folder, or of a repository on the Hub.

    Raises:
        FileNotFoundError: if it is none of them.
        ValueError: if the folder's files do not fit together.
    """
    folder = Path(source)
    if folder.is_dir():
        if (folder / "config.json").is_file():
            is_ours = "model_type" in _read_json(folder / "config.json")
            return _open_run(folder, folder) if is_ours else _open_repository(folder, folder.resolve().name)
        if (folder / "pretraining" / "config.json").is_file():
            return _open_run(folder, folder / "pretraining")
        raise FileNotFoundError(
            f"'{source}' holds neither a config.json nor a pretraining/config.json; give a run, a repository folder, "
            "or what `hf-ssl import` wrote."
        )
    name, _, revision = source.partition("@")
    if not is_hub_id(name):
        raise FileNotFoundError(
            f"There is no folder '{source}', and it is no Hub id; give a run, a repository folder, or ORG/NAME."
        )
    files = ["config.json", "model.safetensors", "results.json"]
    downloaded = call_hub(
        f"download {source}",
        lambda: snapshot_download(name, revision=revision or None, allow_patterns=files),
    )
    return _open_repository(Path(downloaded), source)


def _open_run(run: Path, weights: Path) -> Source:
    model = AutoModelForPreTraining.from_pretrained(
        weights, config=open_config(weights), dtype=torch.float32, trust_remote_code=False
    )
    results = read_results(run / "results.json") if (run / "results.json").is_file() else None
    evaluation = (results or {}).get("evaluation")
    probed = evaluation is not None and (run / PROBE).is_file()
    encoder = model.to_timm(evaluation["num_classes"] if probed else 0)
    if probed:
        _load(encoder.get_classifier(), run / PROBE)
    return Source(
        name=run.resolve().name,
        encoder=encoder.eval(),
        image_size=evaluation["image_size"] if probed else model.config.image_size,
        image_mean=model.config.image_mean,
        image_std=model.config.image_std,
        crop_fraction=evaluation["crop_fraction"] if probed else 1.0,
        interpolation="bilinear",
        class_names=evaluation["class_names"] if probed else None,
        results=results,
    )


def _open_repository(folder: Path, name: str) -> Source:
    config = _read_timm_config(folder, name)
    seen = config["pretrained_cfg"]
    # timm says it there once more.
    model_args = {key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"}
    encoder = create_encoder(config["architecture"], model_args, config["num_classes"])
    _load(encoder, folder / "model.safetensors")
    class_names = config.get("label_names") or [f"LABEL_{index}" for index in range(config["num_classes"])]
    return Source(
        name=name,
        encoder=encoder.float().eval(),
        image_size=seen["input_size"][-1],
        image_mean=list(seen["mean"]),
        image_std=list(seen["std"]),
        crop_fraction=seen.get("crop_pct", 1.0),
        interpolation=seen.get("interpolation", "bilinear"),
        class_names=class_names or None,
        results=read_results(folder / "results.json") if (folder / "results.json").is_file() else None,
    )


def _read_timm_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json of a timm model, with all that is taken of it checked.

    Raises:
        ValueError: if it lacks something, or something is not what timm writes or the image processor knows.
    """
    config = _read_json(folder / "config.json")
    seen = config.get("pretrained_cfg", {})
    if isinstance(seen, dict):
        lacking = ({"architecture", "num_classes"} - config.keys()) | ({"input_size", "mean", "std"} - seen.keys())
        if lacking:
            raise ValueError(
                f"config.json of '{name}' lacks '{min(lacking)}', so it is no timm model; give a run, or the "
                "repository that `hf-ssl card` wrote."
            )
        if seen.get("crop_mode", "center") != "center":
            raise ValueError(
                f"'{name}' sees images by the crop_mode '{seen['crop_mode']}', which the stock image processor does "
                "not know; load it with timm installed."
            )
    else:
        seen = {}
    size, labels = seen.get("input_size"), config.get("label_names")
    crop, resampling = seen.get("crop_pct", 1.0), seen.get("interpolation", "bilinear")
    means, deviations = seen.get("mean"), seen.get("std")
    known = [name.lower() for name in Image.Resampling.__members__]
    count = config.get("num_classes")
    for key, value, valid, allowed in (
        ("pretrained_cfg", config.get("pretrained_cfg"), bool(seen), "a mapping"),
        ("architecture", config.get("architecture"), isinstance(config.get("architecture"), str), "a name"),
        ("model_args", config.get("model_args"), isinstance(config.get("model_args", {}), dict), "a mapping"),
        ("num_classes", count, _is_integer(count) and count >= 0, "a whole number"),
        (
            "label_names",
            labels,
            not labels or (_is_list(labels, str) and len(labels) == count),
            "as many names as classes",
        ),
        (
            "input_size",
            size,
            _is_list(size, int) and len(size) == 3 and size[0] == 3 and size[1] == size[2] > 0,
            "[3, side, side]",
        ),
        ("mean", means, _is_list(means, (int, float)) and len(means) == 3, "three numbers"),
        (
            "std",
            deviations,
            _is_list(deviations, (int, float)) and len(deviations) == 3 and min(deviations) > 0,
            "three numbers above 0",
        ),
        ("crop_pct", crop, _is_list([crop], (int, float)) and 0 < crop <= 1, "a share above 0 and up to 1"),
        ("interpolation", resampling, resampling in known, f"one of {', '.join(known)}"),
    ):
        if not valid:
            raise ValueError(
                f"config.json of '{name}' has {value!r} for '{key}', where {allowed} is due; correct it, or load the "
                "model with timm."
            )
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not valid JSON ({error}); take the model anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is no mapping of keys to values; take the model anew.")
    return content


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether it is a list of such items, the numbers among them finite."""
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) and (isinstance(item, str) or math.isfinite(item))
        for item in value
    )


def _load(module: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no '{path}'; give a model with its weights.")
    try:
        module.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"The weights of '{path}' do not fit the config beside them ({' '.join(str(error).split())}); restore "
            "both, or take the model anew."
        ) from error


def _image_processor(source: Source) -> BitImageProcessor:
    """What timm's evaluation transform does, but for half a pixel: where as much cannot be cut off on both sides."""
    # timm resizes the shorter side to this, rounded down.
    shorter = math.floor(source.image_size / source.crop_fraction)
    return BitImageProcessor(
        size={"shortest_edge": shorter},
        crop_size={"height": source.image_size, "width": source.image_size},
        resample=Image.Resampling[source.interpolation.upper()],
        image_mean=source.image_mean,
        image_std=source.image_std,
    )


@torch.inference_mode()
def _check(folder: Path, source: Source, layout: Layout) -> float:
    """Compare all outputs of the folder's model with the encoder's on random pixels; the largest difference.

    Raises:
        ValueError: if a weight does not fit the stock model, or an output differs by more than `TOLERANCE`.
    """
    classes = [AutoModel, *([AutoModelForImageClassification] if layout.has_classifier else [])]
    with _quiet():
        loaded = [
            auto.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True) for auto in classes
        ]
    kind = layout.config.architectures[0]
    for _, info in loaded:
        for name, shape, due in sorted(info["mismatched_keys"]):
            raise ValueError(
                f"The encoder is none that the stock {kind} can hold: its '{name}' is {tuple(shape)}, where "
                f"{tuple(due)} is due; load the repository folder itself, with timm installed."
            )
    # One class has no use for the classifier, the other for the pooler; nothing is of no use to both.
    unused = set.intersection(*(set(info["unexpected_keys"]) for _, info in loaded))
    wrong = [*unused, *(name for _, info in loaded for name in info["missing_keys"])]
    if wrong:
        raise ValueError(
            f"The encoder is none that the stock {kind} can hold: only one of them has '{min(wrong)}'; load the "
            "repository folder itself, with timm installed."
        )
    shape = (2, 3, source.image_size, source.image_size)
    pixel_values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    outputs = [model(pixel_values) for model, _ in loaded]
    features = source.encoder.forward_features(pixel_values)
    pairs = [
        ("last_hidden_state", outputs[0].last_hidden_state, features),
        (layout.pooled, POOLED[layout.pooled](outputs[0]), source.encoder.forward_head(features, pre_logits=True)),
    ]
    if layout.has_classifier:
        pairs.append(("logits", outputs[1].logits, source.encoder.forward_head(features)))
    largest = 0.0
    for name, got, due in pairs:
        if got.shape != due.shape:
            raise ValueError(
                f"The encoder is none that the stock {kind} can hold: its {name} is {tuple(due.shape)} for two "
                f"images, not {tuple(got.shape)}; load the repository folder itself, with timm installed."
            )
        difference = (got - due).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, due.abs().max().item()):
            raise ValueError(
                f"The encoder is none that the stock {kind} can hold: {name} differs by {difference:.1e}, so a part "
                "without weights (activation, pooling, stride) is another one; load the repository folder itself, "
                "with timm installed."
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of the weights that a class has no use for, which are looked at here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _readme(export: Export, source: Source, layout: Layout) -> str:
    evaluated = source.results is not None and "evaluation" in source.results
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification" if layout.has_classifier else "image-feature-extraction",
        license=LICENSE if evaluated else None,
    )
    # As Python and JSON write it.
    name = json.dumps(export.folder.resolve().name)
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {plain(export.folder.resolve().name)}",
        f"The encoder of {plain(source.name)} as the stock `{export.architecture}` of transformers, written by "
        f"`hf-ssl export`: neither hf_ssl nor timm is needed. Its outputs on random pixels {export.nearness}.",
        FEATURES.format(folder=name, pooled=layout.pooled, width=source.encoder.num_features),
    ]
    if layout.config.model_type == "vit":
        parts.append("Its pooler is the identity, so `pooler_output` is the class token behind the last norm.")
    if layout.has_classifier:
        parts.append(
            "Its classifier is a linear probe, fitted to these features of the frozen encoder. transformers reports "
            "the part that a class has no use for as unexpected, which is right."
        )
        parts.append(CLASSES.format(folder=name))
    if evaluated:
        parts.append(results_table([public_results(source.results)]))
    return "\n\n".join(parts) + "\n"


FEATURES = """\
```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor, model = AutoImageProcessor.from_pretrained({folder}), AutoModel.from_pretrained({folder})
with torch.no_grad():
    outputs = model(**processor(Image.open("picture.jpg"), return_tensors="pt"))
features = {pooled}  # (1, {width})
```"""
CLASSES = """\
```python
from transformers import pipeline

print(pipeline("image-classification", model={folder})("picture.jpg"))
```"""
