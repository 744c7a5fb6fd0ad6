"""Decoded images in files that are mapped into memory: one copy for all processes, and for later runs.

A cache is a folder of `.npy` files and `manifest.json`, which says what they hold: when the data or the size change,
they are decoded anew. It is built under another name and renamed when all of it is on the disk, by one process while
others wait for its lock, so whatever interrupts that leaves nothing behind that would be loaded.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
from filelock import FileLock, Timeout

from hf_ssl.data.cache.decoded import DecodedImages, decode_pieces, required_bytes
from hf_ssl.data.sources import ImageSource

logger = logging.getLogger(__name__)

# To be raised when what is in the files, or how images are decoded, changes.
_VERSION = 1
_MANIFEST = "manifest.json"
_BUILDING = ".building"
_SMALL_ARRAYS = ("sizes", "labels", "decodable")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Names of files, their sizes and times that are read from Arrow at a time.
_READ_PATHS = 10_000
_NAMED_ROWS = 10


def open_disk_cache(
    source: ImageSource, image_size: int, num_threads: int = 2, folder: str | Path | None = None
) -> DecodedImages:
    """Open the decoded images of a split, mapped from files; decode them first where that was not done yet.

    To be called by every process: one decodes, the others wait and share its files. Images that cannot be decoded are
    reported when they are, and counted whenever the cache is opened.

    Args:
        source: the images. A stream must be pinned to a commit.
        image_size: side S of the decoded images in pixels.
        num_threads: number of decoding threads.
        folder: holds all caches; None is the folder `hf_ssl` in the cache of `datasets`, which HF_DATASETS_CACHE or
            HF_HOME move.

    Raises:
        ValueError: the source is a stream without a commit, or a number is not positive.
        OSError: the disk has too little space, or the folder may not be written to.
        UndecodableImageError, RuntimeError: as `decode_all`.
    """
    place, key = _place(source, image_size, folder), _key(source, image_size)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        flaw = _flaw(place, key)
        if flaw is None:
            decoded = _load(place)
            _recall(source, decoded)
            return decoded
        if place.exists():
            logger.warning("The decoded images in '%s' are made anew, as %s.", place, flaw)
        _build(place, key, source, image_size, num_threads)
        return _load(place)


def is_cached(source: ImageSource, image_size: int, folder: str | Path | None = None) -> bool:
    """Whether `open_disk_cache` would find the images decoded; its errors but for those of building."""
    return _flaw(_place(source, image_size, folder), _key(source, image_size)) is None


def replaced_bytes(source: ImageSource, image_size: int, folder: str | Path | None = None) -> int:
    """Size of the cache that `open_disk_cache` would remove before it builds these images' anew."""
    place = _place(source, image_size, folder)
    return sum(path.stat().st_size for path in place.glob("*") if path.is_file())


def caches_folder(folder: str | Path | None = None) -> Path:
    """The folder that holds all caches."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_ssl" if folder is None else Path(folder).expanduser()


def no_space_error(folder: Path, needed: int, free: int) -> OSError:
    """What to raise where the disk is full."""
    return OSError(
        errno.ENOSPC,
        f"The decoded images need {in_units(needed)}, but the disk has {in_units(free)} free: make space, move the "
        "cache to another disk with HF_DATASETS_CACHE, lower storage_size, or do without it by --cache none",
        str(folder),
    )


def in_units(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _place(source: ImageSource, image_size: int, folder: str | Path | None) -> Path:
    """Where the cache of a split lies, whatever is in it: when the data change, it is replaced."""
    identity = [source.name, source.split, source.image_column, source.label_column, source.num_rows, image_size]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    words = (source.name.rstrip("/").rsplit("/", 1)[-1], source.split, f"{image_size}px", digest)
    return caches_folder(folder) / "-".join(re.sub(r"\W+", "_", word)[:40] for word in words)


def _key(source: ImageSource, image_size: int) -> dict[str, str | int | None]:
    return {
        "version": _VERSION,
        "data": _stream_identity(source) if source.is_stream else _data_identity(source),
        "name": source.name,
        "split": source.split,
        "image_column": source.image_column,
        "label_column": source.label_column,
        "num_rows": source.num_rows,
        "image_size": image_size,
    }


def _stream_identity(source: ImageSource) -> str:
    if source.revision is None or not _COMMIT.fullmatch(source.revision):
        raise ValueError(
            f"The stream {source.name!r} (revision {source.revision!r}) is not pinned to a commit, so what it holds "
            "may change and a disk cache of it would be stale: open it as 'org/name@<40 digits of the commit>', or "
            "choose another cache."
        )
    return source.revision


def _data_identity(source: ImageSource) -> str:
    """The fingerprint that `datasets` keeps, which changes with the rows and with the files that they come from.

    Rows of an image folder are names: there, sizes and times of the images are added.
    """
    fingerprint = source.dataset._fingerprint
    if source.root is None:
        return fingerprint
    files = hashlib.sha256()
    for table in source.dataset.with_format("arrow").iter(_READ_PATHS):
        for image in table[source.image_column].to_pylist():
            if image is not None and image["bytes"] is None:
                files.update(repr((image["path"], _size_and_time(image["path"]))).encode())
    return f"{fingerprint}-{files.hexdigest()}"


def _size_and_time(path: str | None) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    # A row may name anything; what cannot be looked at is broken until it can.
    except (OSError, TypeError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    lock = FileLock(f"{place}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process that decodes into '%s'.", place)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _flaw(place: Path, key: dict[str, str | int | None]) -> str | None:
    """Why a cache cannot be used, None if it can."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text())
        if manifest["key"] != key:
            return "the data or the way they are decoded changed"
        for name, size in manifest["files"].items():
            if (place / name).stat().st_size != size:
                return f"'{name}' is damaged"
    except FileNotFoundError as error:
        return f"'{Path(error.filename).name}' is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"'{_MANIFEST}' is damaged"
    return None


def _load(place: Path) -> DecodedImages:
    # A plain view of the mapped file: indexing it is faster than indexing `numpy.memmap`.
    images = np.asarray(np.load(_array(place, "images"), mmap_mode="r"))
    return DecodedImages(images, *(np.load(_array(place, name)) for name in _SMALL_ARRAYS))


def _recall(source: ImageSource, decoded: DecodedImages) -> None:
    broken = np.flatnonzero(~decoded.decodable)
    if len(broken):
        rows = ", ".join(map(str, broken[:_NAMED_ROWS])) + (", ..." if len(broken) > _NAMED_ROWS else "")
        logger.warning(
            "%d of %d images of %s (%s) could not be decoded for the cache: rows %s.",
            *(len(broken), len(decoded.labels), source.name, source.split, rows),
        )


def _build(
    place: Path, key: dict[str, str | int | None], source: ImageSource, image_size: int, num_threads: int
) -> None:
    building = place.with_name(f".{place.name}{_BUILDING}")
    remove_leftovers(place.parent)
    for old in (place, building):
        shutil.rmtree(old, ignore_errors=True)
    needed = required_bytes(source.num_rows, image_size)
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise no_space_error(place.parent, needed, free)
    try:
        building.mkdir()
        _write_arrays(building, source, image_size, num_threads)
        sizes = {path.name: path.stat().st_size for path in sorted(building.iterdir())}
        (building / _MANIFEST).write_text(json.dumps({"key": key, "files": sizes}, indent=1))
        # A name must not reach the disk before what it names.
        for path in (*building.iterdir(), building):
            _sync(path)
        building.rename(place)
        _sync(place.parent)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise no_space_error(place.parent, needed, shutil.disk_usage(place.parent).free) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what was left by processes that were killed while building; the lock of what is being built is taken."""
    for building in folder.glob(f".*{_BUILDING}"):
        lock = FileLock(building.with_name(f"{building.name.removeprefix('.').removesuffix(_BUILDING)}.lock"))
        with suppress(Timeout), lock.acquire(timeout=0):
            shutil.rmtree(building, ignore_errors=True)


def _write_arrays(folder: Path, source: ImageSource, image_size: int, num_threads: int) -> None:
    # Written, not mapped: where the disk is full, writing to mapped memory ends the process.
    shape = (source.num_rows, image_size, image_size, 3)
    small: dict[str, list[np.ndarray]] = {name: [] for name in _SMALL_ARRAYS}
    with (
        closing(decode_pieces(source, image_size, num_threads)) as pieces,
        open(_array(folder, "images"), "wb") as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        _reserve(file, file.tell() + math.prod(shape))
        for piece in pieces:
            file.write(piece.images.data)
            for name, arrays in small.items():
                arrays.append(getattr(piece, name))
    for name, arrays in small.items():
        np.save(_array(folder, name), np.concatenate(arrays))


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the space now, so that a disk that others fill does not end an hour of decoding; macOS has no such call."""
    if sys.platform != "darwin":
        os.posix_fallocate(file.fileno(), 0, size)


def _array(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
