"""The views of every micro-batch of a run, from the data source to what the model is given.

The order of images is a pure function of (seed, epoch, rank, world size), the views of a micro-batch one of (seed, its
position in the run, rank): neither depends on threads, on what is cached, or on where the views are rendered. What
crops are cut from does: images as they are stored, on the host without a cache; otherwise squares of `storage_size`.
"""

import os
from collections.abc import Iterator
from contextlib import closing

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedConfig

from hf_ssl.augment import HostViews, make_views, normalize_views
from hf_ssl.data.cache import choose_cache, decode_all, open_disk_cache
from hf_ssl.data.loader import ImageBatch, ImageLoader
from hf_ssl.data.order import BatchOrder
from hf_ssl.data.resident_loader import ResidentLoader
from hf_ssl.data.sources import ImageSource
from hf_ssl.training.arguments import PretrainArguments


class TrainingViews:
    """Makes the views of one rank's micro-batches.

    On the host, the threads that decode images make their views too, as 8 bit images. Otherwise whole images go to the
    device, which makes the views a batch at a time, and the next micro-batch is copied while this one is trained on.

    Args:
        source: the images.
        arguments: of the run.
        config: of the model, for the size of the views and their normalisation.
        device: of the model.
        on_host: where views are rendered; on the host is right for a CPU, on the device for a GPU.
        rank: index of this process.
        world_size: number of processes.
        continues_from_originals: what the crops of a run that is resumed came from, which "auto" then keeps to; None
            for a new one.
    """

    def __init__(
        self,
        source: ImageSource,
        arguments: PretrainArguments,
        config: PreTrainedConfig,
        device: torch.device,
        *,
        on_host: bool,
        rank: int = 0,
        world_size: int = 1,
        continues_from_originals: bool | None = None,
    ):
        self.arguments, self.config, self.device = arguments, config, device
        self.on_host = on_host
        self.order = BatchOrder(source.num_rows, arguments.batch_size, arguments.seed, rank, world_size)
        size, threads = arguments.storage_size or config.image_size, arguments.num_threads
        self.cache = self._choose_cache(source, size, continues_from_originals)
        decoded = None
        if self.cache == "disk":
            decoded = open_disk_cache(source, size, threads)
        elif self.cache != "none":
            decoded = decode_all(source, size, threads)
        if self.cache == "device":
            self.loader: ImageLoader | ResidentLoader = ResidentLoader(source, decoded, self.order, device)
        else:
            self.loader = ImageLoader(
                source,
                batch_size=arguments.batch_size,
                image_size=size,
                seed=arguments.seed,
                rank=rank,
                world_size=world_size,
                num_threads=threads,
                decoded=decoded,
                renderer=HostViews(arguments.views, config.image_size, self._generator) if on_host else None,
                pin_memory=device.type == "cuda",
            )

    def _choose_cache(self, source: ImageSource, size: int, continues_from_originals: bool | None) -> str:
        arguments, epochs = self.arguments, self.arguments.epochs
        if arguments.max_steps is not None:
            micro_batches = arguments.max_steps * arguments.gradient_accumulation_steps
            epochs = min(epochs, micro_batches / self.batches_per_epoch)
        # torchrun says how many of the processes are on this machine.
        num_local = int(os.environ.get("LOCAL_WORLD_SIZE", self.order.world_size))
        chosen = [choose_cache(arguments.cache, source, size, epochs, self.device, num_processes=num_local)]
        if self.order.world_size > 1:
            # What is free differs from one process to the next, and with it what "auto" chooses.
            broadcast_object_list(chosen)
        if arguments.cache != "auto" or continues_from_originals is None or not self.on_host:
            return chosen[0]
        if continues_from_originals:
            return "none"
        return "disk" if chosen[0] == "none" else chosen[0]

    @property
    def from_originals(self) -> bool:
        """Whether crops come from images as they are stored; otherwise from squares of `storage_size`."""
        return self.on_host and self.cache == "none"

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of an epoch."""
        return self.order.batches_per_epoch

    def micro_batches(self, done: int) -> Iterator[torch.Tensor]:
        """Views without end from position `done` of the run on.

        Yields:
            float32 on the device, normalised: (B, 3, S, S), or (B, V, 3, S, S) for V > 1 views. On the host the next
            ones take their place.
        """
        with closing(self.loader.endless(done)) as batches:
            if self.on_host:
                out = None
                for batch in batches:
                    if out is None:
                        out = torch.empty(batch.images.shape)
                    yield normalize_views(batch.images, self.config.image_mean, self.config.image_std, out)
                return
            for index, batch in enumerate(self._copied(batches), start=done):
                yield make_views(
                    batch.images,
                    batch.sizes,
                    self.arguments.views,
                    self._generator(index),
                    self.config.image_size,
                    self.config.image_mean,
                    self.config.image_std,
                )

    def _copied(self, batches: Iterator[ImageBatch]) -> Iterator[ImageBatch]:
        """Batches whose images are on the device, each copied on a stream of its own while the one before is used."""
        module = torch.get_device_module(self.device)
        side = module.Stream()
        ready = None
        for batch in batches:
            # What is queued so far still reads images whose memory the copy may be given.
            side.wait_stream(module.current_stream())
            with module.stream(side):
                batch.images = batch.images.to(self.device, non_blocking=True)
            if ready is not None:
                yield ready
            module.current_stream().wait_stream(side)
            ready = batch

    def _generator(self, index: int) -> torch.Generator:
        order = self.order
        seed = (order.seed * 1_000_003 + index) * order.world_size + order.rank
        return torch.Generator().manual_seed(seed)
