"""Files that are there when they are complete."""

import os
from pathlib import Path


def check_new_file(path: Path) -> None:
    """Check that a file is not there and can be written.

    Raises:
        FileExistsError: it, or something else of its name, is there.
        FileNotFoundError, NotADirectoryError, PermissionError: as `check_writable`.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"'{path}' exists; give another name, or remove it.")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Check that a file can be written, or replaced.

    Raises:
        IsADirectoryError: there is a folder of its name.
        FileNotFoundError: its folder does not exist.
        NotADirectoryError: what should be its folder is a file.
        PermissionError: its folder may not be written to.
    """
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; give the name of a file.")
    check_writable_folder(path.parent)


def check_writable_folder(folder: Path) -> None:
    """Check that files can be made in a folder.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: as `check_writable`.
    """
    if not folder.exists():
        raise FileNotFoundError(f"The folder '{folder}' does not exist; make it, or choose another one.")
    if not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is a file, not a folder; choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"The folder '{folder}' may not be written to; choose another one.")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; whoever reads meanwhile, or after an interruption, finds the old one, or none, or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
