"""Features of a frozen encoder, computed once: the evaluation view of every image, in the loader's order.

The view is the centred square without any augmentation, and the encoder sees all of it (no patch is masked).
Raw pixels of the same view are the baseline below which nothing has been learned.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from hf_ssl.augment import center_view, render_view
from hf_ssl.data import ImageLoader

# 32 × 32 pixels are 3072 features, as many as a large encoder's; 224 × 224 pixels would be 150,528.
MAX_PIXELS_SIDE = 32


@dataclass
class Features:
    """What a classifier is fitted to.

    Attributes:
        features: float32 (N, D) on the CPU.
        labels: int64 (N,) on the CPU, −1 where the source has no labels.
    """

    features: torch.Tensor
    labels: torch.Tensor


def extract_all(
    encoders: Mapping[str, nn.Module],
    loader: ImageLoader,
    *,
    output_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop_fraction: float = 1.0,
    raw_pixels: bool = True,
    device: torch.device | str,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, Features]:
    """Run frozen encoders over all images of a loader, each of which is read and decoded once for all of them.

    The raw pixels are those of the view that the encoders see, in [0, 1], as rows of (N, 3 · side²). The side is
    `output_size`, but 32 at most: larger views are scaled down, so that the classifier stays tractable.

    Args:
        encoders: by name, on `device`; called with pixel_values (B, 3, output_size, output_size), the output has a
            `pooler_output` (B, D). They run in eval mode and come back in the modes that their modules were in.
        loader: with `shuffle=False`, `drop_last=False` and one process.
        output_size: side in pixels of what the encoders see.
        mean: 3 channel means in [0, 1] that the encoders were trained with.
        std: 3 channel standard deviations in [0, 1].
        crop_fraction: side of the central square as a share of the image's shorter side, in (0, 1].
        raw_pixels: whether to give the pixels too.
        device: where to render and encode.
        autocast_dtype: computes in this type where autocast allows; float32 if not given.

    Returns:
        The features by the encoders' names, last those of "raw_pixels".

    Raises:
        ValueError: the loader does not give every image of its source.
    """
    device = torch.device(device)
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in encoders}
    if raw_pixels:
        rows["raw_pixels"] = []
    labels = []
    with _eval_mode(nn.ModuleList(encoders.values())), torch.inference_mode():
        for batch in loader.epoch(0):
            labels.append(batch.labels)
            images, parameters = batch.images.to(device), center_view(batch.sizes, crop_fraction)
            views = render_view(images, parameters, output_size, mean, std)
            for name, encoder in encoders.items():
                with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                    pooled = encoder(views).pooler_output
                rows[name].append(pooled.float().cpu())
            if raw_pixels:
                pixels = render_view(images, parameters, min(output_size, MAX_PIXELS_SIDE), (0, 0, 0), (1, 1, 1))
                rows["raw_pixels"].append(pixels.flatten(1).cpu())
    labels = torch.cat(labels)
    if len(labels) != loader.source.num_rows:
        raise ValueError(
            f"The loader gave {len(labels)} of the {loader.source.num_rows} images of {loader.source.name!r} "
            f"({loader.source.split}); build it with drop_last=False and one process."
        )
    # Popped, as both the batches and the whole of all features may be more than fits into memory.
    return {name: Features(torch.cat(rows.pop(name)), labels) for name in list(rows)}


@contextmanager
def _eval_mode(encoder: nn.Module) -> Iterator[None]:
    # Module by module: parts may have been in eval mode inside an encoder in training mode.
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
