"""Batches of decoded images for one rank, in a seeded order that can be resumed exactly.

The order is a pure function of (seed, epoch, rank, world size). Ranks take every `world_size`-th row of one
global order, so the k-th batches of all ranks together are the k-th batch of a single process with a batch
`world_size` times as large. A position in an epoch is one integer, the number of batches before it: resuming
rebuilds the order and skips undecoded rows, which is exact for streams as well (their shuffle buffer cannot
be restored from a saved state without losing rows).
"""

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from hf_ssl.data.decoding import UndecodableImageError, decode_image, encoded_bytes
from hf_ssl.data.sources import ImageSource, int64_label

logger = logging.getLogger(__name__)

# Undecoded rows from which a stream draws at random: about 0.5 GB of ImageNet JPEGs in each process. Shards
# are shuffled and interleaved besides.
SHUFFLE_BUFFER_ROWS = 4096


@dataclass
class ImageBatch:
    """A batch of B decoded images.

    Attributes:
        images: uint8 of shape (B, 3, S, S), each the whole picture squeezed to a square.
        sizes: int64 of shape (B, 2), height and width in pixels before squeezing.
        labels: int64 of shape (B,), −1 where the source has no labels, or none for this image.
    """

    images: torch.Tensor
    sizes: torch.Tensor
    labels: torch.Tensor


@dataclass
class _Rows:
    """Undecoded rows of one batch; `numbers` are indices of rows, in streams their positions in the epoch."""

    numbers: list[int]
    images: list[dict]
    labels: list[int | None]


class ImageLoader:
    """Reads a source in a seeded order and decodes it in threads, a few batches ahead of the consumer.

    An image that cannot be decoded is reported once through `logging` and replaced, together with its label,
    by the next decodable image of the same batch, so that the shapes of batches stay; `num_undecodable`
    counts the replacements. A batch without a single decodable image is an error.

    Args:
        source: the images.
        batch_size: images per batch and rank.
        image_size: side S of the decoded images in pixels.
        seed: seed of the order, not negative.
        rank: index of this process.
        world_size: number of processes.
        shuffle: draw a new order every epoch: a permutation of all rows where the source has random access,
            a shuffle buffer where it is a stream. Otherwise rows come in the source's order.
        drop_last: leave out the rows that do not fill a batch on every rank, so that all ranks have equally
            many batches. Without it every row comes exactly once over all ranks, the last batch may be short,
            and the number of batches may differ by one between ranks.
        num_threads: number of decoding threads.

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
    ):
        for name, value in (
            ("batch_size", batch_size),
            ("image_size", image_size),
            ("world_size", world_size),
            ("num_threads", num_threads),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} was given, but it must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} was given, but it must lie in 0 .. world_size - 1 = {world_size - 1}.")
        if seed < 0:
            raise ValueError(f"seed={seed} was given, but it must not be negative.")
        self.source = source
        self.batch_size = batch_size
        self.image_size = image_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.num_threads = num_threads
        self.num_undecodable = 0
        self._reported: set[int] = set()
        self._report_lock = threading.Lock()

        global_batch = batch_size * world_size
        if drop_last:
            self._global_rows = source.num_rows // global_batch * global_batch
        else:
            self._global_rows = source.num_rows
        if self._global_rows <= rank:
            raise ValueError(
                f"{source.name!r} ({source.split}) has {source.num_rows} rows, fewer than one batch "
                f"of {batch_size} on each of {world_size} processes: lower batch_size to at most "
                f"{max(source.num_rows // world_size, 1)} or use fewer processes."
            )

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches that `epoch` yields on this rank."""
        return -(-self._rank_rows // self.batch_size)

    @property
    def _rank_rows(self) -> int:
        return len(range(self.rank, self._global_rows, self.world_size))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ImageBatch]:
        """Iterate over one epoch, leaving out its first `start` batches without decoding them.

        `epoch(e, start=k)` yields exactly the batches that `epoch(e)` yields after its first k.

        Raises:
            ValueError: `epoch` is negative, or `start` does not lie in 0 .. `batches_per_epoch`.
            RuntimeError: while iterating, a stream ends before the number of rows that its source states.
            UndecodableImageError: while iterating, not one image of a batch can be decoded.
        """
        if epoch < 0:
            raise ValueError(f"epoch={epoch} was given, but it must not be negative.")
        if not 0 <= start <= self.batches_per_epoch:
            raise ValueError(
                f"start={start} was given, but an epoch has {self.batches_per_epoch} batches: give a "
                f"position in 0 .. {self.batches_per_epoch}."
            )
        read = self._read_stream if self.source.is_stream else self._read_at_random
        return self._decoded(read(epoch, start))

    def _read_at_random(self, epoch: int, start: int) -> Generator[_Rows]:
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.source.num_rows)
        else:
            order = np.arange(self.source.num_rows)
        order = order[self.rank : self._global_rows : self.world_size]
        dataset = self.source.dataset.with_format("arrow")
        for batch in range(start, self.batches_per_epoch):
            numbers = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            table = dataset[numbers]
            images = table[self.source.image_column].to_pylist()
            labels = [-1] * len(images)
            if self.source.label_column is not None:
                labels = table[self.source.label_column].to_pylist()
            yield _Rows(numbers.tolist(), images, labels)

    def _read_stream(self, epoch: int, start: int) -> Generator[_Rows]:
        stream = self.source.dataset
        if self.shuffle:
            generator = np.random.default_rng((self.seed, epoch))
            stream = stream.shuffle(generator=generator, buffer_size=SHUFFLE_BUFFER_ROWS)
        # Skipping comes before the split, so it counts the rows of all ranks. Splitting by examples, not
        # shards, gives every rank equally many rows whatever the number of shards.
        stream = stream.skip(start * self.batch_size * self.world_size)
        stream = iter(split_dataset_by_node(stream, self.rank, self.world_size, strategy="examples"))
        for batch in range(start, self.batches_per_epoch):
            first = batch * self.batch_size
            rows = _Rows([], [], [])
            for position in range(first, min(first + self.batch_size, self._rank_rows)):
                row = next(stream, None)
                if row is None:
                    raise RuntimeError(
                        f"The stream {self.source.name!r} ({self.source.split}) ended after about "
                        f"{position * self.world_size} rows, but its source states {self.source.num_rows}: "
                        "open it with the right num_rows."
                    )
                rows.numbers.append(position * self.world_size + self.rank)
                rows.images.append(row[self.source.image_column])
                rows.labels.append(-1 if self.source.label_column is None else row[self.source.label_column])
            yield rows

    def _decoded(self, rows: Generator[_Rows]) -> Iterator[ImageBatch]:
        # One thread reads, in order; the others decode a batch each. Waiting for rows that are still being
        # read cannot block the reader, as it has a pool of its own.
        reader = ThreadPoolExecutor(1, thread_name_prefix="hf_ssl-read")
        decoders = ThreadPoolExecutor(self.num_threads, thread_name_prefix="hf_ssl-decode")
        stop = threading.Event()
        pending: deque[Future] = deque()

        def submit() -> None:
            read = reader.submit(next, rows, None)
            pending.append(decoders.submit(self._decode, read, stop))

        try:
            for _ in range(self.num_threads + 2):
                submit()
            while (batch := pending.popleft().result()) is not None:
                submit()
                yield batch
        finally:
            # A shuffled parquet stream takes 5 s to close: `datasets` waits for the threads of its readers.
            stop.set()
            reader.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)
            rows.close()

    def _decode(self, read: Future, stop: threading.Event) -> ImageBatch | None:
        rows = read.result()
        if rows is None:
            return None
        count = len(rows.numbers)
        images = np.empty((count, 3, self.image_size, self.image_size), np.uint8)
        sizes = np.empty((count, 2), np.int64)
        labels = np.array([int64_label(label) for label in rows.labels], np.int64)
        broken = []
        for i, image in enumerate(rows.images):
            if stop.is_set():
                return None
            try:
                images[i], sizes[i] = decode_image(encoded_bytes(image, self.source.root), self.image_size)
            except UndecodableImageError as error:
                self._report(rows.numbers[i], error)
                broken.append(i)
        if len(broken) == count:
            raise UndecodableImageError(
                f"Not one of the {count} images of a batch of {self.source.name!r} ({self.source.split}) can "
                f"be decoded, the first being row {rows.numbers[0]}: set image_column to a column of images."
            )
        for i in broken:
            substitute = next(j % count for j in range(i + 1, i + count) if j % count not in broken)
            images[i], sizes[i], labels[i] = images[substitute], sizes[substitute], labels[substitute]
        return ImageBatch(torch.from_numpy(images), torch.from_numpy(sizes), torch.from_numpy(labels))

    def _report(self, row: int, error: UndecodableImageError) -> None:
        with self._report_lock:
            self.num_undecodable += 1
            # Across epochs a position in a shuffled stream is not always the same image.
            known = row in self._reported and not self.source.is_stream
            self._reported.add(row)
        if not known:
            logger.warning("Row %d of %s (%s) is replaced: %s", row, self.source.name, self.source.split, error)
