"""Which rank sees which row when: a pure function of (seed, epoch, rank, world size).

Ranks take every `world_size`-th row of one global order, so the k-th batches of all ranks together are the k-th batch
of a single process with a batch `world_size` times as large. A position in an epoch is one integer, the number of
batches before it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchOrder:
    """The batches of one rank.

    Args:
        num_rows: rows of the source, N.
        batch_size: images per batch and rank.
        seed: seed of the order, not negative.
        rank: index of this process.
        world_size: number of processes.
        shuffle: draw a new order every epoch; otherwise rows come in the source's order.
        drop_last: leave out the rows that do not fill a batch on every rank, so that all ranks have equally many
            batches. Without it every row comes exactly once over all ranks, the last batch may be short, and the
            number of batches may differ by one between ranks.

    Raises:
        ValueError: a size is not positive, `rank` is not below `world_size`, or an epoch has no batch.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    drop_last: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} was given, but it must be at least 1.")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank={self.rank} was given, but it must lie in 0 .. world_size - 1 = {self.world_size - 1}."
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} was given, but it must not be negative.")
        if self.global_rows <= self.rank:
            raise ValueError(
                f"There are {self.num_rows} rows, fewer than one batch of {self.batch_size} on each of "
                f"{self.world_size} processes: lower batch_size to at most "
                f"{max(self.num_rows // self.world_size, 1)} or use fewer processes."
            )

    @property
    def global_rows(self) -> int:
        """Rows that an epoch has on all ranks together."""
        global_batch = self.batch_size * self.world_size
        return self.num_rows // global_batch * global_batch if self.drop_last else self.num_rows

    @property
    def rank_rows(self) -> int:
        """Rows that an epoch has on this rank."""
        return len(range(self.rank, self.global_rows, self.world_size))

    @property
    def batches_per_epoch(self) -> int:
        """Batches that an epoch has on this rank."""
        return -(-self.rank_rows // self.batch_size)

    def rows(self, epoch: int) -> np.ndarray:
        """Numbers of this rank's rows in the order of an epoch, int64 (rank_rows,)."""
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
        else:
            order = np.arange(self.num_rows)
        return order[self.rank : self.global_rows : self.world_size]

    def check_position(self, epoch: int, start: int) -> None:
        """Check a position from which an epoch is to be read.

        Raises:
            ValueError: `epoch` is negative, or `start` does not lie in 0 .. `batches_per_epoch`.
        """
        if epoch < 0:
            raise ValueError(f"epoch={epoch} was given, but it must not be negative.")
        if not 0 <= start <= self.batches_per_epoch:
            raise ValueError(
                f"start={start} was given, but an epoch has {self.batches_per_epoch} batches: give a position in "
                f"0 .. {self.batches_per_epoch}."
            )
