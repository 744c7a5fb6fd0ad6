"""All images of a split, decoded in threads into one array."""

import itertools
import logging
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from hf_ssl.data.decoding import UndecodableImageError, decode_image, encoded_bytes
from hf_ssl.data.rows import undecoded_rows
from hf_ssl.data.sources import ImageSource, int64_label

logger = logging.getLogger(__name__)

# What a thread decodes at a time.
_PIECE_BYTES = 16 << 20
_PIECE_IMAGES = 64


@dataclass(frozen=True)
class DecodedImages:
    """N decoded images of side S; row i is row i of the source, in a stream's own order.

    Attributes:
        images: uint8 (N, S, S, 3), each the whole picture squeezed to a square, black where it cannot be decoded; from
            a disk cache not writable, and read from the file when it is looked at.
        sizes: int64 (N, 2), height and width in pixels before squeezing, 1 where it cannot be decoded.
        labels: int64 (N,), −1 where the source has no labels, or none for this image.
        decodable: bool (N,), whether there is an image.
    """

    images: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    decodable: np.ndarray

    @property
    def num_undecodable(self) -> int:
        """Number of images that could not be decoded."""
        return int(np.count_nonzero(~self.decodable))


# The errors are those of broken rows, counted from the first of the piece.
_Result = tuple[DecodedImages, dict[int, UndecodableImageError]]


def required_bytes(num_rows: int, image_size: int) -> int:
    """Bytes that the decoded images of a data set take, with their sizes, labels and flags."""
    return num_rows * (3 * image_size**2 + 2 * 8 + 8 + 1)


def decode_all(source: ImageSource, image_size: int, num_threads: int = 2) -> DecodedImages:
    """Decode a whole split into memory: `required_bytes` in each process that does.

    On a terminal there is a bar; each image that cannot be decoded is reported once through `logging`.

    Args:
        source: the images; a stream is read to its end.
        image_size: side S of the decoded images in pixels.
        num_threads: number of decoding threads.

    Raises:
        ValueError: `image_size` or `num_threads` is not positive.
        UndecodableImageError: not one image can be decoded.
        RuntimeError: a stream ends before the number of rows that its source states.
    """
    with closing(decode_pieces(source, image_size, num_threads)) as pieces:
        decoded = _empty(source.num_rows, image_size)
        start = 0
        for piece in pieces:
            rows = slice(start, start + len(piece.labels))
            decoded.images[rows], decoded.sizes[rows] = piece.images, piece.sizes
            decoded.labels[rows], decoded.decodable[rows] = piece.labels, piece.decodable
            start = rows.stop
    return decoded


def decode_pieces(source: ImageSource, image_size: int, num_threads: int) -> Generator[DecodedImages]:
    """Decode a split in the source's order, a few rows at a time; arguments and errors are those of `decode_all`."""
    for name, value in (("image_size", image_size), ("num_threads", num_threads)):
        if value < 1:
            raise ValueError(f"{name}={value} was given, but it must be at least 1.")
    return _decode_pieces(source, image_size, num_threads)


def _decode_pieces(source: ImageSource, image_size: int, num_threads: int) -> Generator[DecodedImages]:
    began, done, num_broken, total = time.monotonic(), 0, 0, source.num_rows
    logger.info("Decoding %d images of %s (%s) to %d pixels.", total, source.name, source.split, image_size)
    bar = tqdm(total=total, unit="image", desc="decoding", disable=None, leave=False, dynamic_ncols=True)
    with bar, closing(_in_threads(source, image_size, num_threads)) as results:
        for piece, errors in results:
            for i, error in errors.items():
                logger.warning("Row %d of %s (%s) is left out: %s", done + i, source.name, source.split, error)
            yield piece
            done, num_broken = done + len(piece.labels), num_broken + len(errors)
            bar.update(len(piece.labels))
    if done < total:
        raise RuntimeError(
            f"The stream {source.name!r} ({source.split}) ended after {done} rows, but its source states {total}: "
            "open it with the right num_rows."
        )
    if num_broken == total:
        raise UndecodableImageError(
            f"Not one of the {total} images of {source.name!r} ({source.split}) can be decoded: set image_column to a "
            "column of images."
        )
    logger.info("Decoded %d images in %.0f s, %d were broken.", done, time.monotonic() - began, num_broken)


def _in_threads(source: ImageSource, image_size: int, num_threads: int) -> Generator[_Result]:
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="hf_ssl-decode")
    pending: deque[Future[_Result]] = deque()
    try:
        for rows in _read(source, image_size):
            pending.append(pool.submit(_decode, rows, source.root, image_size))
            # Each thread works on one, another one waits for it.
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: ImageSource, image_size: int) -> Iterator[list[tuple[dict | None, int | None]]]:
    count = max(1, min(_PIECE_IMAGES, _PIECE_BYTES // (3 * image_size**2)))
    rows = itertools.islice(undecoded_rows(source), source.num_rows)
    while piece := list(itertools.islice(rows, count)):
        yield piece


def _decode(rows: list[tuple[dict | None, int | None]], root: str | None, image_size: int) -> _Result:
    piece, errors = _empty(len(rows), image_size), {}
    for i, (image, label) in enumerate(rows):
        piece.labels[i] = int64_label(label)
        try:
            piece.images[i], piece.sizes[i] = decode_image(encoded_bytes(image, root), image_size)
            piece.decodable[i] = True
        except UndecodableImageError as error:
            errors[i] = error
            piece.images[i], piece.sizes[i], piece.decodable[i] = 0, 1, False
    return piece, errors


def _empty(count: int, image_size: int) -> DecodedImages:
    return DecodedImages(
        images=np.empty((count, image_size, image_size, 3), np.uint8),
        sizes=np.empty((count, 2), np.int64),
        labels=np.empty(count, np.int64),
        decodable=np.empty(count, np.bool_),
    )
