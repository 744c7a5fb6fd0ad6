"""What of a run may be published: its results and its recipe without the places of files on the machine it ran on.

A local data set goes by the last part of its path, so that in a published results.json `name/name` is a Hub id.
"""

import re
import shlex
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import Any

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(dataset: str) -> bool:
    """Whether the `dataset` of a published results.json is the id of a data set on the Hub."""
    return _HUB_ID.fullmatch(dataset) is not None


def public_results(results: dict[str, Any]) -> dict[str, Any]:
    """The same results with every local path shortened to its last part; class names stay as they are."""
    local = _local_datasets(results)
    sections = ("pretraining", "evaluation")
    public = {**results, **{name: _shorten_all(results[name], local) for name in sections if name in results}}
    if "evaluation" in results:
        public["evaluation"]["class_names"] = results["evaluation"]["class_names"]
    return public


def public_recipe(recipe: Any, results: dict[str, Any]) -> Any:
    """The content of a run's recipe.yaml, shortened like its results."""
    return _shorten_all(recipe, _local_datasets(results))


def _local_datasets(results: dict[str, Any]) -> set[str]:
    """The data sets that are no Hub ids; `name/name` without a revision is one unless such a folder exists here."""
    sections = [results[name] for name in ("pretraining", "evaluation") if name in results]
    return {
        section["dataset"]
        for section in sections
        if section["revision"] is None and (not is_hub_id(section["dataset"]) or Path(section["dataset"]).exists())
    }


def _shorten_all(value: Any, local: Set[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _shorten_command(item, local) if key == "command" else _shorten_all(item, local)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_shorten_all(item, local) for item in value]
    return _shorten(value, local) if isinstance(value, str) else value


def _shorten_command(command: str, local: Set[str]) -> str:
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(flag + equals + _shorten(value, local))
    return shlex.join(words)


def _shorten(text: str, local: Set[str]) -> str:
    path = PurePosixPath(text)
    if text in local or path.is_absolute() or text.startswith("~") or ".." in path.parts:
        return path.name if path.name not in ("", "..") else "folder"
    return text
