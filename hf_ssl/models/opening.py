"""The config of a model that somebody else may have written, read before anything of it is built."""

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

import hf_ssl
from hf_ssl.models.configuration import MethodConfig


def open_config(place: str | Path, subfolder: str = "", revision: str | None = None) -> MethodConfig:
    """The config of a model of one of our methods; the `config` of every `from_pretrained` of such a model.

    `AutoConfig` and the Auto models look for code to run, and ask for leave, where they do not know a `model_type`. A
    config that they are given is not looked at again.

    Args:
        place: a folder, or a Hub id.
        subfolder: where in it config.json lies.
        revision: branch, tag or commit on the Hub.

    Raises:
        ValueError: if config.json is not valid, or of a model of no method of ours.
        OSError: if there is none, or the Hub cannot be reached.
    """
    where, revision = f"{place}/{subfolder}".rstrip("/"), revision or "main"
    path = cached_file(str(place), "config.json", subfolder=subfolder, revision=revision)
    if path is None:
        raise FileNotFoundError(f"There is no config.json in '{where}'; give a model that hf_ssl has written.")
    model_type = _read_json(Path(path), where).get("model_type")
    check_model_type(model_type, f"config.json of '{where}'")
    config_class = getattr(hf_ssl, f"{hf_ssl.METHODS[model_type]}Config")
    return config_class.from_pretrained(str(place), subfolder=subfolder, revision=revision)


def check_model_type(model_type: Any, where: str) -> None:
    """Check that a `model_type` is one of our methods'; `where` says in which file it was found.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(model_type, str) or model_type not in hf_ssl.METHODS:
        raise ValueError(
            f"{where} has the model_type {model_type!r}, which is none of hf_ssl's ({', '.join(hf_ssl.METHODS)}); "
            "give a model that hf_ssl has written."
        )


def _read_json(path: Path, place: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config.json of '{place}' is not valid JSON ({error}); take the model anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"config.json of '{place}' is no mapping of keys to values; take the model anew.")
    return content


__all__ = ["check_model_type", "open_config"]
