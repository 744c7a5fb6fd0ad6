"""Features of a frozen encoder, computed once: the evaluation view of every image, in the loader's order.

The view is the centred square without any augmentation, and the encoder sees all of it (no patch is masked).
Raw pixels of the same view are the baseline below which nothing has been learned.
"""

from collections.abc import Iterator, Sequence
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
    """What a linear probe is fitted to.

    Attributes:
        features: float32 (N, D) on the CPU.
        labels: int64 (N,) on the CPU, −1 where the source has no labels.
    """

    features: torch.Tensor
    labels: torch.Tensor


def extract_features(
    encoder: nn.Module,
    loader: ImageLoader,
    *,
    output_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop_fraction: float = 1.0,
    device: torch.device | str,
    autocast_dtype: torch.dtype | None = None,
) -> Features:
    """Run a frozen encoder once over all images of a loader.

    Args:
        encoder: on `device`; called with pixel_values (B, 3, output_size, output_size), its output has a
            `pooler_output` (B, D). Runs in eval mode and comes back in the modes that its modules were in.
        loader: with `shuffle=False`, `drop_last=False` and one process.
        output_size: side in pixels of what the encoder sees.
        mean: 3 channel means in [0, 1] that the encoder was trained with.
        std: 3 channel standard deviations in [0, 1].
        crop_fraction: side of the central square as a share of the image's shorter side, in (0, 1].
        device: where to render and encode.
        autocast_dtype: computes in this type where autocast allows; float32 if not given.

    Raises:
        ValueError: the loader does not give every image of its source.
    """
    device = torch.device(device)
    features, labels = [], []
    with _eval_mode(encoder), torch.inference_mode():
        for views, batch_labels in _evaluation_views(loader, output_size, mean, std, crop_fraction, device):
            with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                pooled = encoder(views).pooler_output
            features.append(pooled.float().cpu())
            labels.append(batch_labels)
    return Features(torch.cat(features), torch.cat(labels))


def extract_pixels(
    loader: ImageLoader, *, output_size: int, crop_fraction: float = 1.0, device: torch.device | str
) -> Features:
    """The pixels of the view that `extract_features` shows the encoder, in [0, 1], as rows of (N, 3 · side²).

    The side is `output_size`, but 32 at most: larger views are scaled down, so that the classifier stays
    tractable.

    Raises:
        ValueError: the loader does not give every image of its source.
    """
    side = min(output_size, MAX_PIXELS_SIDE)
    features, labels = [], []
    for views, batch_labels in _evaluation_views(
        loader, side, (0, 0, 0), (1, 1, 1), crop_fraction, torch.device(device)
    ):
        features.append(views.flatten(1).cpu())
        labels.append(batch_labels)
    return Features(torch.cat(features), torch.cat(labels))


def _evaluation_views(
    loader: ImageLoader,
    output_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop_fraction: float,
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    count = 0
    for batch in loader.epoch(0):
        count += len(batch.labels)
        parameters = center_view(batch.sizes, crop_fraction)
        yield render_view(batch.images.to(device), parameters, output_size, mean, std), batch.labels
    if count != loader.source.num_rows:
        raise ValueError(
            f"The loader gave {count} of the {loader.source.num_rows} images of {loader.source.name!r} "
            f"({loader.source.split}); build it with drop_last=False and one process."
        )


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
