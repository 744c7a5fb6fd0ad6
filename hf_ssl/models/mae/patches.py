"""Images as rows of patches, and the fixed positions of these."""

import torch


def patchify(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut (B, 3, H, W) images into (B, L, p²·3) patches, row by row, channels last within (official code)."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    patches = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size**2 * channels)


def unpatchify(patches: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The inverse of `patchify` for square images: (B, L, p²·3) to (B, 3, H, W)."""
    batch, count, _ = patches.shape
    rows = round(count**0.5)
    images = patches.reshape(batch, rows, rows, patch_size, patch_size, 3)
    return images.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, rows * patch_size, rows * patch_size)


def sincos_position_embedding(width: int, num_patches: int) -> torch.Tensor:
    """Fixed two-dimensional sin-cos positions with a zero row for the class token, (1, 1 + L, width) float32.

    The first half of the channels encodes the column, the second the row, as in the official `pos_embed.py`.
    """
    side = round(num_patches**0.5)
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    grid = torch.cat([line.repeat(side, 1), line.repeat_interleave(side, dim=0)], dim=1)
    return torch.cat([grid.new_zeros(1, width), grid])[None].float()
