"""Batches of decoded images for one rank, in a seeded order that can be resumed exactly.

Resuming rebuilds the order and skips undecoded rows, which is exact for streams as well (their shuffle buffer cannot
be restored from a saved state without losing rows).
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from hf_ssl.data.cache import DecodedImages
from hf_ssl.data.decoding import UndecodableImageError, decode_image, decode_reduced, encoded_bytes
from hf_ssl.data.order import BatchOrder
from hf_ssl.data.sources import ImageSource, int64_label

logger = logging.getLogger(__name__)

# Undecoded rows from which a stream draws at random: about 0.5 GB of ImageNet JPEGs in each process. Shards
# are shuffled and interleaved besides.
SHUFFLE_BUFFER_ROWS = 4096
# Images that a thread works on at a time: large batches are shared out, small ones are worked on side by side.
PIECE_IMAGES = 64


@dataclass
class ImageBatch:
    """A batch of B decoded images.

    Attributes:
        images: uint8 of shape (B, 3, S, S), each the whole picture squeezed to a square, in memory channels last;
            or the views that a `ViewRenderer` made, uint8 (B, V, S, S, 3).
        sizes: int64 of shape (B, 2), height and width in pixels of the originals.
        labels: int64 of shape (B,), −1 where the source has no labels, or none for this image.
    """

    images: torch.Tensor
    sizes: torch.Tensor
    labels: torch.Tensor


class ViewRenderer(Protocol):
    """Makes views of images in the loader's threads, such as `hf_ssl.augment.HostViews`."""

    @property
    def max_threads(self) -> int | None:
        """How many threads should render at a time; None for any number."""
        ...

    def start(
        self, index: int, batch: int, pin_memory: bool
    ) -> tuple[torch.Tensor, Callable[[Sequence[np.ndarray], torch.Tensor, slice], None]]:
        """Give memory for the views of batch number `index` of the run, and a function that fills rows of it."""
        ...


class ImageLoader:
    """Reads a source in a seeded order and decodes it in threads, a few batches ahead of the consumer.

    An image that cannot be decoded is reported once through `logging` and replaced, together with its label,
    by the next decodable image of the same batch, so that the shapes of batches stay; `num_undecodable`
    counts the replacements. A batch without a single decodable image is an error.

    Args:
        source: the images.
        batch_size: images per batch and rank.
        image_size: side S in pixels to which images are squeezed; with `renderer`, to which a large JPEG may be
            reduced before its views are made.
        seed: seed of the order, not negative.
        rank: index of this process.
        world_size: number of processes.
        shuffle: draw a new order every epoch: a permutation of all rows where they can be read at random, a shuffle
            buffer where the source is a stream. Otherwise rows come in the source's order.
        drop_last: see `BatchOrder`.
        num_threads: number of threads that decode and render; with `decoded`, no more than the renderer has use for.
        decoded: the images of the source, decoded before; nothing is then read from it.
        renderer: makes views of each image in the threads; without one, images come whole.
        pin_memory: whether batches lie in page-locked memory, from which GPUs copy while they compute.

    Raises:
        ValueError: a size is not positive, `rank` is not below `world_size`, or an epoch has no batch.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        batch_size: int,
        image_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        num_threads: int = 2,
        decoded: DecodedImages | None = None,
        renderer: ViewRenderer | None = None,
        pin_memory: bool = False,
    ):
        for name, value in (("image_size", image_size), ("num_threads", num_threads)):
            if value < 1:
                raise ValueError(f"{name}={value} was given, but it must be at least 1.")
        self.source = source
        self.order = BatchOrder(source.num_rows, batch_size, seed, rank, world_size, shuffle, drop_last)
        self.image_size = image_size
        # Where there is nothing to decode, rendering is all that the threads do.
        most = renderer.max_threads if renderer is not None and decoded is not None else None
        self.num_threads = num_threads if most is None else min(num_threads, most)
        self.decoded = decoded
        self.renderer = renderer
        self.pin_memory = pin_memory
        self.num_undecodable = 0
        self._reported: set[int] = set()
        self._report_lock = threading.Lock()

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches that `epoch` yields on this rank."""
        return self.order.batches_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ImageBatch]:
        """Iterate over one epoch, leaving out its first `start` batches without decoding them.

        `epoch(e, start=k)` yields exactly the batches that `epoch(e)` yields after its first k.

        Raises:
            ValueError: `epoch` is negative, or `start` does not lie in 0 .. `batches_per_epoch`.
            RuntimeError: while iterating, a stream ends before the number of rows that its source states.
            UndecodableImageError: while iterating, not one image of a batch can be decoded.
        """
        self.order.check_position(epoch, start)
        return self._batches(self._read(epoch, start), epoch * self.batches_per_epoch + start)

    def endless(self, position: int) -> Iterator[ImageBatch]:
        """Iterate over epoch after epoch from batch number `position` of a run on, each read while the last one ends.

        Raises:
            RuntimeError, UndecodableImageError: as `epoch`.
        """

        def rows() -> Generator[_Rows]:
            first, start = divmod(position, self.batches_per_epoch)
            yield from self._read(first, start)
            for epoch in itertools.count(first + 1):
                yield from self._read(epoch, 0)

        return self._batches(rows(), position)

    def _read(self, epoch: int, start: int) -> Generator["_Rows"]:
        if self.decoded is not None:
            return self._read_decoded(epoch, start)
        return self._read_stream(epoch, start) if self.source.is_stream else self._read_at_random(epoch, start)

    def _read_decoded(self, epoch: int, start: int) -> Generator["_Rows"]:
        for numbers in self._numbers(epoch, start):
            yield _DecodedRows(numbers, self.decoded)

    def _read_at_random(self, epoch: int, start: int) -> Generator["_Rows"]:
        dataset = self.source.dataset.with_format("arrow")
        for numbers in self._numbers(epoch, start):
            table = dataset[numbers]
            images = table[self.source.image_column].to_pylist()
            labels = [-1] * len(images)
            if self.source.label_column is not None:
                labels = table[self.source.label_column].to_pylist()
            yield _EncodedRows(numbers.tolist(), images, labels, self)

    def _numbers(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        order, size = self.order.rows(epoch), self.order.batch_size
        for batch in range(start, self.batches_per_epoch):
            yield order[batch * size : (batch + 1) * size]

    def _read_stream(self, epoch: int, start: int) -> Generator["_Rows"]:
        stream, order = self.source.dataset, self.order
        if order.shuffle:
            generator = np.random.default_rng((order.seed, epoch))
            stream = stream.shuffle(generator=generator, buffer_size=SHUFFLE_BUFFER_ROWS)
        # Skipping comes before the split, so it counts the rows of all ranks. Splitting by examples, not
        # shards, gives every rank equally many rows whatever the number of shards.
        stream = stream.skip(start * order.batch_size * order.world_size)
        stream = iter(split_dataset_by_node(stream, order.rank, order.world_size, strategy="examples"))
        for batch in range(start, self.batches_per_epoch):
            first = batch * order.batch_size
            rows = _EncodedRows([], [], [], self)
            for position in range(first, min(first + order.batch_size, order.rank_rows)):
                row = next(stream, None)
                if row is None:
                    raise RuntimeError(
                        f"The stream {self.source.name!r} ({self.source.split}) ended after about "
                        f"{position * order.world_size} rows, but its source states {self.source.num_rows}: "
                        "open it with the right num_rows."
                    )
                rows.numbers.append(position * order.world_size + order.rank)
                rows.images.append(row[self.source.image_column])
                rows.labels.append(-1 if self.source.label_column is None else row[self.source.label_column])
            yield rows

    def _batches(self, rows: Generator["_Rows"], index: int) -> Iterator[ImageBatch]:
        # One thread reads, in order, and deals each batch out to the others in pieces.
        reader = ThreadPoolExecutor(1, thread_name_prefix="hf_ssl-read")
        decoders = ThreadPoolExecutor(self.num_threads, thread_name_prefix="hf_ssl-decode")
        stop = threading.Event()
        pending: deque[Future] = deque()

        def begin(index: int) -> _Batch | None:
            read = next(rows, None)
            if read is None:
                return None
            batch = _Batch(self, read, index)
            batch.pieces = [
                decoders.submit(batch.work_on, slice(start, start + PIECE_IMAGES), stop)
                for start in range(0, len(read.numbers), PIECE_IMAGES)
            ]
            return batch

        try:
            # Enough batches for all threads to have a piece while the consumer has one.
            for _ in range(1 + max(1, -(-self.num_threads * PIECE_IMAGES // self.order.batch_size))):
                pending.append(reader.submit(begin, index))
                index += 1
            while (batch := pending.popleft().result()) is not None:
                pending.append(reader.submit(begin, index))
                index += 1
                yield batch.finished()
        finally:
            # A shuffled parquet stream takes 5 s to close: `datasets` waits for the threads of its readers.
            stop.set()
            reader.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)
            rows.close()

    def report(self, row: int, error: UndecodableImageError) -> None:
        """Count an image that cannot be decoded, and say so once for each row; a cache has said it before."""
        with self._report_lock:
            self.num_undecodable += 1
            # Across epochs a position in a shuffled stream is not always the same image.
            known = self.decoded is not None or (row in self._reported and not self.source.is_stream)
            self._reported.add(row)
        if not known:
            logger.warning("Row %d of %s (%s) is replaced: %s", row, self.source.name, self.source.split, error)


class _Rows(Protocol):
    """The rows of one batch: `numbers` of the source, in streams positions in the epoch, and int64 labels."""

    numbers: Sequence[int]

    def int64_labels(self) -> np.ndarray: ...

    def open(self, i: int) -> tuple[np.ndarray, Sequence[int]]:
        """Image i of the batch, uint8 (height, width, 3), and the (height, width) of the original."""
        ...


@dataclass
class _EncodedRows:
    numbers: list[int]
    images: list[dict]
    labels: list[int | None]
    loader: ImageLoader

    def int64_labels(self) -> np.ndarray:
        return np.array([int64_label(label) for label in self.labels], np.int64)

    def open(self, i: int) -> tuple[np.ndarray, Sequence[int]]:
        data = encoded_bytes(self.images[i], self.loader.source.root)
        decode = decode_image if self.loader.renderer is None else decode_reduced
        return decode(data, self.loader.image_size)


@dataclass
class _DecodedRows:
    numbers: np.ndarray
    decoded: DecodedImages

    def int64_labels(self) -> np.ndarray:
        return self.decoded.labels[self.numbers]

    def open(self, i: int) -> tuple[np.ndarray, Sequence[int]]:
        row = self.numbers[i]
        if not self.decoded.decodable[row]:
            raise UndecodableImageError("it could not be decoded")
        return self.decoded.images[row], self.decoded.sizes[row]


class _Batch:
    """A batch while threads fill it."""

    def __init__(self, loader: ImageLoader, rows: _Rows, index: int):
        self.loader, self.rows = loader, rows
        self.pieces: list[Future] = []
        count = len(rows.numbers)
        self.labels = torch.from_numpy(rows.int64_labels())
        self.sizes = np.ones((count, 2), np.int64)
        if loader.renderer is not None:
            self.images, self.render = loader.renderer.start(index, count, loader.pin_memory)
        else:
            side = loader.image_size
            squares = torch.empty(count, side, side, 3, dtype=torch.uint8, pin_memory=loader.pin_memory)
            self.images, self.render = squares.permute(0, 3, 1, 2), None
            self.squares = squares.numpy()

    def work_on(self, piece: slice, stop: threading.Event) -> list[int]:
        """Fill some of the rows and return those whose images cannot be decoded."""
        images, broken = [], []
        for i in range(*piece.indices(len(self.labels))):
            if stop.is_set():
                return []
            try:
                image, size = self.rows.open(i)
            except UndecodableImageError as error:
                self.loader.report(int(self.rows.numbers[i]), error)
                broken.append(i)
                # In its place until it is replaced.
                image, size = np.zeros((1, 1, 3), np.uint8), (1, 1)
            self.sizes[i] = size
            if self.render is None:
                self.squares[i] = image
            else:
                images.append(image)
        if images:
            self.render(images, torch.from_numpy(self.sizes[piece]), piece)
        return broken

    def finished(self) -> ImageBatch:
        """Wait for the threads, and put others in the places of broken images."""
        broken = [i for piece in self.pieces for i in piece.result()]
        for i, substitute in find_substitutes(broken, self.rows.numbers, self.loader.source).items():
            self.sizes[i], self.labels[i] = self.sizes[substitute], self.labels[substitute]
            if self.render is None:
                self.images[i] = self.images[substitute]
            else:
                # Its views are its own.
                image, _ = self.rows.open(substitute)
                self.render([image], torch.from_numpy(self.sizes[i : i + 1]), slice(i, i + 1))
        return ImageBatch(self.images, torch.from_numpy(self.sizes), self.labels)


def find_substitutes(broken: Sequence[int], numbers: Sequence[int], source: ImageSource) -> dict[int, int]:
    """For each broken position of a batch the next one, from its end on from its beginning, that is not broken.

    Args:
        broken: positions in the batch.
        numbers: the batch's rows of the source.
        source: for the error.

    Raises:
        UndecodableImageError: all are broken.
    """
    count = len(numbers)
    if len(broken) == count:
        raise UndecodableImageError(
            f"Not one of the {count} images of a batch of {source.name!r} ({source.split}) can be decoded, the first "
            f"being row {numbers[0]}: set image_column to a column of images."
        )
    taken = set(broken)
    return {i: next(j % count for j in range(i + 1, i + count) if j % count not in taken) for i in sorted(taken)}
