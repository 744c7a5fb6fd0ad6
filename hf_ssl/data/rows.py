"""Every row of a data set once, in order, each looked at in threads: what inspecting and copying have in common."""

import itertools
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import PIL
from tqdm import tqdm

from hf_ssl.data.decoding import UndecodableImageError
from hf_ssl.data.sources import EMBEDDED, ImageSource, open_source, split_names

# Rows that are read from Arrow at a time, undecoded.
READ_ROWS = 32
# Rows that are looked at or wait for it, for each thread.
ROWS_PER_THREAD = 4

Result = TypeVar("Result")


def open_splits(
    dataset: str, splits: Sequence[str] | None, *, image_column: str, label_column: str | None
) -> list[ImageSource]:
    """Open several splits, to be read by `read_rows`; all of them, "train" first, if `splits` is None.

    A stream's number of rows need not be known, as whoever reads all rows counts them: `num_rows` of the sources of
    streams says nothing, see `stated_rows`.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as `open_source`.
    """
    return [
        open_source(
            dataset,
            split=split,
            image_column=image_column,
            label_column=label_column,
            num_rows=sys.maxsize if is_streamed(dataset) else None,
        )
        for split in splits or split_names(dataset)
    ]


def is_streamed(dataset: str) -> bool:
    """Whether `open_source` looks for a data set on the Hub."""
    return dataset != EMBEDDED and not Path(dataset).expanduser().is_dir()


def stated_rows(source: ImageSource) -> int | None:
    """The number of rows of a split, for a stream what its card states, None where it does not."""
    if not source.is_stream:
        return source.num_rows
    info = (source.dataset.info.splits or {}).get(source.split)
    return info.num_examples if info is not None and info.num_examples else None


def read_rows(
    source: ImageSource,
    look: Callable[[dict | None], Result],
    *,
    num_rows: int | None = None,
    num_threads: int = 2,
) -> Iterator[tuple[dict | None, int | None, Result]]:
    """Read a split from its first row on; on a terminal with a bar.

    Args:
        source: the split.
        look: called in threads with each undecoded image, a dict of `bytes` and `path`.
        num_rows: stop after as many rows; read all if None.
        num_threads: number of threads that look.

    Yields:
        The image, its label (None without one) and what `look` returned, in the source's order.
    """
    total = stated_rows(source)
    if num_rows is not None:
        total = num_rows if total is None else min(num_rows, total)
    rows = itertools.islice(undecoded_rows(source), num_rows)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="hf_ssl-look")
    pending: deque = deque()
    bar = tqdm(total=total, unit="image", desc=source.split, disable=None, leave=False, dynamic_ncols=True)
    try:
        for image, label in rows:
            pending.append((image, label, pool.submit(look, image)))
            if len(pending) == ROWS_PER_THREAD * num_threads:
                image, label, future = pending.popleft()
                yield image, label, future.result()
                bar.update()
        while pending:
            image, label, future = pending.popleft()
            yield image, label, future.result()
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def undecoded_rows(source: ImageSource) -> Iterator[tuple[dict | None, int | None]]:
    """Every image of a split, a dict of `bytes` and `path`, and its label (None without one), in order."""
    if source.is_stream:
        for row in source.dataset:
            yield row[source.image_column], None if source.label_column is None else row[source.label_column]
        return
    for table in source.dataset.with_format("arrow").iter(READ_ROWS):
        images = table[source.image_column].to_pylist()
        labels = [None] * len(images) if source.label_column is None else table[source.label_column].to_pylist()
        yield from zip(images, labels, strict=True)


def reason_of(error: UndecodableImageError) -> str:
    """Why an image is broken, in a few words that are the same each time and name no place on this machine."""
    cause = error.__cause__
    if cause is None:
        return str(error)
    if isinstance(cause, PIL.UnidentifiedImageError):
        return "no image format that Pillow reads"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "", str(cause))
    return printable(f"{type(cause).__name__}: {text}" if text else type(cause).__name__)[:200]


def printable(text: str) -> str:
    """Text on one line without control characters, which could otherwise steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
