"""Which cache a run uses: what was asked for, or what fits."""

import logging
import os
import shutil
from pathlib import Path
from typing import Literal

import psutil
import torch

from hf_ssl.data.cache.decoded import required_bytes
from hf_ssl.data.cache.disk import (
    caches_folder,
    in_units,
    is_cached,
    no_space_error,
    remove_leftovers,
    replaced_bytes,
)
from hf_ssl.data.sources import ImageSource

logger = logging.getLogger(__name__)

CACHES = ("auto", "device", "memory", "disk", "none")
# Control groups of Linux (version 2) limit containers below what the machine has.
_CGROUP = Path("/sys/fs/cgroup")


def choose_cache(
    requested: str,
    source: ImageSource,
    image_size: int,
    epochs: float,
    device: torch.device,
    *,
    num_processes: int = 1,
    folder: str | Path | None = None,
) -> Literal["device", "memory", "disk", "none"]:
    """Choose where the decoded images of a run are kept.

    "auto" takes the first of these that holds, and logs it with its reason:
    - "none" for fewer than 2 epochs, as decoding once then saves nothing, and for streams: a run on a stream is to
      start at once and may be larger than any disk here, while all of a cache is read before the first step;
    - "device" where the images take at most half of the free memory of a CUDA device, and on the way there at most
      half of the memory that is available here;
    - "memory" where they take at most a third of that, for a single process: several would each keep a copy;
    - "disk" where they are cached already, or take at most half of the space that is free;
    - "none" otherwise.

    What is asked for otherwise is checked, and never replaced by something else.

    Args:
        requested: one of `CACHES`.
        source: the images.
        image_size: side of the decoded images in pixels.
        epochs: how often the run goes through the images.
        device: of the model.
        num_processes: of this run on this machine.
        folder: of disk caches, as for `open_disk_cache`.

    Raises:
        ValueError: an unknown name, "device" without a GPU, "disk" for a stream that is not pinned to a commit, or
            more images than memory.
        OSError: more images than the disk has space for.
    """
    if requested not in CACHES:
        raise ValueError(f"cache={requested!r} was given, but it must be one of {', '.join(CACHES)}.")
    needed = required_bytes(source.num_rows, image_size)
    if requested == "auto":
        kind, reason = _choose(source, image_size, epochs, device, num_processes, folder, needed)
        logger.info(
            "Cache: %s for %d images at %d pixels (%s decoded), as %s.",
            *(kind, source.num_rows, image_size, in_units(needed), reason),
        )
        return kind
    if requested == "device":
        _check_device(device, needed)
    if requested in ("device", "memory"):
        _check_memory(requested, needed, num_processes)
    if requested == "disk" and not is_cached(source, image_size, folder):
        space = _free_space(source, image_size, folder)
        if needed > space:
            raise no_space_error(caches_folder(folder), needed, space)
    return requested


def _choose(
    source: ImageSource,
    image_size: int,
    epochs: float,
    device: torch.device,
    num_processes: int,
    folder: str | Path | None,
    needed: int,
) -> tuple[Literal["device", "memory", "disk", "none"], str]:
    if epochs < 2:
        return "none", "they are needed less than twice"
    if source.is_stream:
        return "none", "streams are cached only where that is asked for"
    memory = _available_memory()
    if device.type == "cuda":
        free = _free_on(device)
        if needed <= free / 2 and needed * num_processes <= memory / 2:
            return "device", f"they fit into half of its free {in_units(free)}"
    if num_processes == 1 and needed <= memory / 3:
        return "memory", f"they fit into a third of its available {in_units(memory)}"
    if is_cached(source, image_size, folder):
        return "disk", f"they are there already, in '{caches_folder(folder)}'"
    space = _free_space(source, image_size, folder)
    if needed <= space / 2:
        return "disk", f"they fit into half of the {in_units(space)} free in '{caches_folder(folder)}'"
    return "none", (
        f"they fit neither into memory ({in_units(memory)} available) nor on the disk ({in_units(space)} free in "
        f"'{caches_folder(folder)}')"
    )


def _check_device(device: torch.device, needed: int) -> None:
    if device.type != "cuda":
        raise ValueError(
            f"cache='device' was given, but the model is on {str(device)!r}, which has no memory of its own: choose "
            "memory, disk or auto."
        )
    free = _free_on(device)
    if needed > free:
        raise ValueError(
            f"cache='device' was given, but the decoded images need {in_units(needed)} and {device} has "
            f"{in_units(free)} free: lower storage_size, or choose disk or auto."
        )


def _check_memory(requested: str, needed: int, num_processes: int) -> None:
    available = _available_memory()
    if needed * num_processes > available:
        copies = f", once in each of {num_processes} processes," if num_processes > 1 else ""
        raise ValueError(
            f"cache={requested!r} was given, but the decoded images need {in_units(needed)} of memory{copies} and "
            f"{in_units(available)} are available: lower storage_size, or choose disk or auto."
        )


def _free_on(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _available_memory() -> int:
    """Bytes that can be had without swapping, in a container those that it may have."""
    available = psutil.virtual_memory().available
    try:
        limit, used, statistics = (
            (_CGROUP / name).read_text() for name in ("memory.max", "memory.current", "memory.stat")
        )
    except FileNotFoundError:
        return available
    if limit.strip() == "max":
        return available
    # Files that were read are counted as used, and given up where memory is needed.
    given_up = dict(line.split() for line in statistics.splitlines()).get("inactive_file", 0)
    return min(available, int(limit) - int(used) + int(given_up))


def _free_space(source: ImageSource, image_size: int, folder: str | Path | None) -> int:
    """Bytes that a disk cache of these images may take, in place of an earlier one; 0 where it may not be written."""
    caches = place = caches_folder(folder).absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        return 0
    remove_leftovers(caches)
    return shutil.disk_usage(place).free + replaced_bytes(source, image_size, folder)
