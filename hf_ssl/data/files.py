"""Files that are there when they are complete."""

import os
from pathlib import Path


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
