"""Batches from images that are all on the device: nothing is decoded, and nothing but row numbers is copied."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from hf_ssl.data.cache import DecodedImages
from hf_ssl.data.loader import ImageBatch, find_substitutes
from hf_ssl.data.order import BatchOrder
from hf_ssl.data.sources import ImageSource


class ResidentLoader:
    """Gives the batches of `ImageLoader` for the same order, from a decoded data set that is on the device.

    Args:
        source: what was decoded.
        decoded: its images.
        order: which rows come when.
        device: where the images are kept, N · S · S · 3 bytes, and the batches come from.

    Raises:
        torch.OutOfMemoryError: the images do not fit.
    """

    def __init__(self, source: ImageSource, decoded: DecodedImages, order: BatchOrder, device: torch.device):
        self.source, self.order = source, order
        # Not the images, which would stay in the host's memory too.
        self.sizes, self.labels, self.decodable = decoded.sizes, decoded.labels, decoded.decodable
        self.images = torch.empty(decoded.images.shape, dtype=torch.uint8, device=device)
        # In blocks, as the whole may be in a file and larger than memory.
        for start in range(0, len(self.images), 4096):
            block = np.array(decoded.images[start : start + 4096])
            self.images[start : start + len(block)] = torch.from_numpy(block).to(device)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of an epoch on this rank."""
        return self.order.batches_per_epoch

    def endless(self, position: int) -> Iterator[ImageBatch]:
        """Iterate over epoch after epoch from batch number `position` of a run on; `images` are on the device.

        Raises:
            UndecodableImageError: while iterating, not one image of a batch could be decoded.
        """
        size = self.order.batch_size
        first, start = divmod(position, self.batches_per_epoch)
        for epoch in itertools.count(first):
            order = self.order.rows(epoch)
            for batch in range(start, self.batches_per_epoch):
                rows = order[batch * size : (batch + 1) * size].copy()
                broken = np.flatnonzero(~self.decodable[rows]).tolist()
                for i, substitute in find_substitutes(broken, rows, self.source).items():
                    rows[i] = rows[substitute]
                on_device = torch.from_numpy(rows).to(self.images.device, non_blocking=True)
                yield ImageBatch(
                    self.images[on_device].permute(0, 3, 1, 2),
                    torch.from_numpy(self.sizes[rows]),
                    torch.from_numpy(self.labels[rows]),
                )
            start = 0
