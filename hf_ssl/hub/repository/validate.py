"""What a repository folder must be before it leaves the machine."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_ssl.evaluation.results import read_results
from hf_ssl.hub.card.model_card import render_card
from hf_ssl.hub.publish.client import TOKEN, redact
from hf_ssl.hub.repository.layout import FILES, WEIGHTS, check_root_config, foreign_files, list_repository
from hf_ssl.models.opening import open_config

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")


def validate_repository(folder: Path) -> None:
    """Check everything that can be wrong with a repository folder without opening its models.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it holds something that has no place in it, a pickle, a link, a token or a file that is cut; or
            its card is not the one that its results give.
    """
    paths = list_repository(folder)
    for path in sorted(paths):
        if Path(path).suffix in PICKLES:
            raise ValueError(
                f"'{folder}' holds {path}: pickles run code when they are read, and are not published; turn weights "
                "into safetensors with `hf-ssl import`, and remove the file."
            )
        if (folder / path).is_symlink():
            raise ValueError(f"'{folder}' holds {path}, a link that may lead anywhere; put the file in its place.")
    foreign = foreign_files(paths)
    if foreign:
        raise ValueError(
            f"'{folder}' holds {foreign[0]}, which no repository of hf_ssl has; remove it, or write the folder anew "
            "with `hf-ssl card`."
        )
    missing = sorted(set(FILES) - paths)
    if missing:
        raise FileNotFoundError(
            f"'{folder}' lacks {missing[0]}; write the folder anew with `hf-ssl card RUN --output {folder}`."
        )
    for path in sorted(paths):
        if Path(path).suffix in (".md", ".json", ".yaml"):
            _check_no_token(folder, path)
    for path in WEIGHTS:
        try:
            with safe_open(folder / path, framework="np") as weights:
                weights.keys()
        except SafetensorError as error:
            raise ValueError(
                f"'{folder}' holds {path}, which is no complete safetensors file ({error}); write the folder anew "
                "with `hf-ssl card`."
            ) from error
    results = read_results(folder / "results.json")
    if "evaluation" not in results:
        raise ValueError(f"'{folder}' holds a results.json without an evaluation; run `hf-ssl evaluate` on its run.")
    _check_config(folder, results)
    if (folder / "README.md").read_text(encoding="utf-8") != render_card(folder):
        raise ValueError(
            f"The README.md of '{folder}' is not the card that its results.json gives, whose code and numbers alone "
            "are published; write the folder anew with `hf-ssl card`, in a folder of another name if you want to keep "
            "your text."
        )


def _check_config(folder: Path, results: dict[str, Any]) -> None:
    """The root's config.json is read by timm and transformers, where other keys name files, addresses and code."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pretraining = open_config(folder, "pretraining")
    expected = {
        "architecture": pretraining.backbone.split(".")[0],
        "model_args": pretraining.timm_model_args,
        "num_classes": results["evaluation"]["num_classes"],
        "label_names": results["evaluation"]["class_names"],
    }
    check_root_config(config, str(folder), expected)


def _check_no_token(folder: Path, path: str) -> None:
    text = (folder / path).read_text(encoding="utf-8")
    if TOKEN.search(text) or redact(text) != text:
        raise ValueError(f"'{folder}' holds {path}, which has an access token in it; remove it there and in its run.")
