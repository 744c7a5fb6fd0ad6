"""NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR (Chen et al. 2020, section 2.1, equation 1).

Every view is an anchor once. Its positive is the other view of its image, its negatives are all other views of the
batch, over all processes; the loss is the mean of −log softmax(cosine / τ) at the positive.

Across processes every rank keeps its own anchors and gathers everybody's views as candidates. The gather's backward
sums over ranks, so that gradients which DDP averages equal those of one process on the whole batch.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from hf_ssl.losses.tiled_logsumexp import MAX_UNSHIFTED, log2_sum_exp2, log2_sum_exp2_of_pairs


class NTXentLoss(nn.Module):
    """NT-Xent over two batches of projections, exact at any temperature and in O(batch · dim) memory.

    Args:
        temperature: τ > 0 by which cosine similarities are divided. Below 0.02 one process makes twice the products.
        products_dtype: `torch.bfloat16` rounds the normalised projections and the softmax's weights to bfloat16 and
            multiplies those, faster; similarities, softmax and loss stay in float32. `None` rounds nothing.

    Raises:
        ValueError: if the temperature is not positive, or for another dtype.
    """

    def __init__(self, temperature: float = 0.5, products_dtype: torch.dtype | None = None):
        if temperature <= 0:
            raise ValueError(
                f"temperature is {temperature}; choose a positive number, 0.1 to 0.5 is usual for NT-Xent."
            )
        if products_dtype not in (None, torch.bfloat16):
            raise ValueError(f"products_dtype is {products_dtype}; choose torch.bfloat16, or None for full precision.")
        super().__init__()
        self.temperature = temperature
        self.products_dtype = products_dtype

    def forward(self, z0: torch.Tensor, z1: torch.Tensor) -> torch.Tensor:
        """The mean loss of this process's anchors, in float32 whatever the autocast state.

        Args:
            z0: projections of the first views, (batch, dim), any floating dtype; need not be normalised.
            z1: projections of the second views, row i of the same image as row i of `z0`.

        Returns:
            A scalar, float64 for float64 projections and float32 for others; for a collapsed encoder
            ln(2·total batch − 1). Every process must hold the same batch size.

        Raises:
            ValueError: if the two batches differ in shape.
        """
        if z0.shape != z1.shape or z0.dim() != 2:
            raise ValueError(
                f"z0 has shape {tuple(z0.shape)} and z1 {tuple(z1.shape)}; give two (batch, dim) tensors alike."
            )
        with torch.autocast(z0.device.type, enabled=False):
            z = torch.cat([z0, z1])
            # Products of these are the logits to the base of 2.
            z = (
                F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
                * (math.log2(math.e) / self.temperature) ** 0.5
            )
            low_precision = self.products_dtype == torch.bfloat16
            if low_precision:
                # Rounded in positives and negatives alike; the gradient passes straight through.
                z = z + (z.bfloat16().to(z.dtype) - z).detach()
            candidates, rank = _gather_with_summed_gradient(z)
            if candidates is z and math.log2(math.e) / self.temperature <= MAX_UNSHIFTED:
                normalizer = log2_sum_exp2_of_pairs(z, low_precision)
            else:
                normalizer = log2_sum_exp2(z, candidates, rank * len(z), low_precision)
            first, second = z.view(2, -1).unbind()
            # Every positive is that of two anchors.
            return (normalizer.sum() - 2 * (first * second).sum()) * (math.log(2) / len(z))


def _gather_with_summed_gradient(local: torch.Tensor) -> tuple[torch.Tensor, int]:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local, 0
    return _AllGather.apply(local), dist.get_rank()


class _AllGather(torch.autograd.Function):
    """Concatenate every rank's (n, d) tensor; the backward sums the ranks' gradients of this rank's slice."""

    @staticmethod
    def forward(ctx, local: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local.contiguous())
        ctx.batch = len(local)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.batch
        return gradient[start : start + ctx.batch]
