"""From 8 bit views to what an encoder sees."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

# Of 8 bit views that are normalised at a time, so that they stay in a core's cache between two operations.
CHUNK_BYTES = 2**18


def normalize_views(views: Tensor, mean: Sequence[float], std: Sequence[float], out: Tensor | None = None) -> Tensor:
    """Turn views into floating point and normalise their channels.

    In the calling thread alone: torch's would wait for one another at every operation while the loader's are at work.

    Args:
        views: uint8 (B, V, S, S, 3) on the CPU.
        mean: 3 channel means in [0, 1].
        std: 3 channel standard deviations in [0, 1].
        out: float32 (B, V, S, S, 3) to write to. Getting new memory from the system takes longer than filling it.

    Returns:
        float32, (B, 3, S, S) for one view, (B, V, 3, S, S) for V of them, each image in memory channels last.
    """
    normalized = torch.empty(views.shape) if out is None else out
    matrix = np.zeros((3, 4), np.float32)
    matrix[:, :3] = np.diag(1 / (255 * np.array(std)))
    matrix[:, 3] = -np.array(mean) / np.array(std)
    side = views.shape[-2]
    rows, targets = (array.numpy().reshape(-1, side, 3) for array in (views, normalized))
    chunk = max(CHUNK_BYTES // max(3 * side, 1), 1)
    for start in range(0, len(rows), chunk):
        cv2.transform(rows[start : start + chunk].astype(np.float32), matrix, targets[start : start + chunk])
    planes = normalized.movedim(-1, -3)
    return planes.squeeze(1) if views.shape[1] == 1 else planes
