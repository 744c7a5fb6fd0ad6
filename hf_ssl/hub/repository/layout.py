"""The layout of a repository: which files it has, and which keys the config at its root."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = ("model.safetensors", "pretraining/model.safetensors")
FILES = ("README.md", "config.json", "pretraining/config.json", "recipe.yaml", "results.json", *WEIGHTS)
PICTURES = re.compile(r"pictures/[\w-]+\.png")
CONFIG_KEYS = {
    "architecture",
    "num_classes",
    "num_features",
    "global_pool",
    "label_names",
    "model_args",
    "pretrained_cfg",
}
PRETRAINED_CFG_KEYS = {
    *("architecture", "input_size", "fixed_input_size", "num_classes", "pool_size", "first_conv", "classifier"),
    *("license", "interpolation", "mean", "std", "crop_pct", "crop_mode", "custom_load"),
}


def list_repository(folder: Path) -> set[str]:
    """Paths of all files and links in a folder, relative to it, with forward slashes."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths}


def foreign_files(paths: set[str]) -> list[str]:
    """Those paths that no repository of ours has, sorted."""
    return sorted(path for path in paths if path not in FILES and not PICTURES.fullmatch(path))


def is_repository(paths: set[str]) -> bool:
    """Whether these are the paths of a repository of ours."""
    return "results.json" in paths and not foreign_files(paths)


def check_root_config(config: Any, place: str, expected: Mapping[str, Any] | None = None) -> None:
    """Refuse a config.json that says more to timm and transformers than hf_ssl writes: files, addresses, code.

    Args:
        config: content of the config.json at the root of a repository.
        place: the repository, for the message.
        expected: values that some of its keys must have.

    Raises:
        ValueError: a key that hf_ssl does not write, or another value than expected.
    """
    known = isinstance(config, dict) and isinstance(config.get("pretrained_cfg"), dict)
    wrong = ["pretrained_cfg"]
    if known:
        wrong = sorted({*config} - CONFIG_KEYS) + sorted({*config["pretrained_cfg"]} - PRETRAINED_CFG_KEYS)
        wrong += [key for key, value in (expected or {}).items() if config.get(key) != value]
    if wrong:
        raise ValueError(
            f"The config.json of '{place}' has the key '{wrong[0]}' as hf_ssl does not write it; write the repository "
            "anew with `hf-ssl card`."
        )
