"""What of a run may be published: its results and its recipe without the places of files on the machine it ran on.

A local data set goes by the last part of its path, so that in a published results.json `name/name` is a Hub id.
"""

import shlex
from collections.abc import Set
from pathlib import PurePosixPath
from typing import Any

from hf_ssl.data.sources import is_local


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
    """The data sets that are not on the Hub, in the words of whoever named them too."""
    sections = [results[name] for name in ("pretraining", "evaluation") if name in results]
    local = [section for section in sections if is_local(section["dataset"], section["revision"])]
    return {
        name for section in local for name in (section["dataset"], section.get("arguments", {}).get("dataset")) if name
    }


def _shorten_all(value: Any, local: Set[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: shorten_command(item, local) if key == "command" else _shorten_all(item, local)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_shorten_all(item, local) for item in value]
    return _shorten(value, local) if isinstance(value, str) else value


def shorten_command(command: str, local: Set[str]) -> str:
    """A command line without the places of files; `local` are the data sets in it that are not on the Hub."""
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
