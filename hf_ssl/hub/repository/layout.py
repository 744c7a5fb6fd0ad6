"""The layout of a repository: which files it has."""

from fnmatch import fnmatch
from pathlib import Path

WEIGHTS = ("model.safetensors", "pretraining/model.safetensors")
FILES = ("README.md", "config.json", "pretraining/config.json", "recipe.yaml", "results.json", *WEIGHTS)
PICTURES = "pictures/*.png"


def list_repository(folder: Path) -> set[str]:
    """Paths of all files and links in a folder, relative to it, with forward slashes."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths}


def foreign_files(paths: set[str]) -> list[str]:
    """Those paths that no repository of ours has, sorted."""
    return sorted(path for path in paths if path not in FILES and not fnmatch(path, PICTURES))


def is_repository(paths: set[str]) -> bool:
    """Whether these are the paths of a repository of ours."""
    return "results.json" in paths and not foreign_files(paths)
