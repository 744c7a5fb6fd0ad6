"""NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR (Chen et al. 2020, section 2.1, equation 1).

Every view is an anchor once. Its positive is the other view of its image, its negatives are all other views of the
batch, over all processes; the loss is the mean of −log softmax(cosine / τ) at the positive.

Across processes every rank keeps its own anchors and gathers everybody's views as candidates. The gather's backward
sums over ranks, so that gradients which DDP averages equal those of one process on the whole batch.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


class NTXentLoss(nn.Module):
    """NT-Xent over two batches of projections.

    Args:
        temperature: τ > 0 by which cosine similarities are divided.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, temperature: float = 0.5):
        if temperature <= 0:
            raise ValueError(
                f"temperature is {temperature}; choose a positive number, 0.1 to 0.5 is usual for NT-Xent."
            )
        super().__init__()
        self.temperature = temperature

    def forward(self, z0: torch.Tensor, z1: torch.Tensor) -> torch.Tensor:
        """The mean loss of this process's anchors, in float32 whatever the autocast state.

        Args:
            z0: projections of the first views, (batch, dim), any floating dtype; need not be normalised.
            z1: projections of the second views, row i of the same image as row i of `z0`.

        Returns:
            A scalar; for a collapsed encoder ln(2·total batch − 1). Every process must hold the same batch size.

        Raises:
            ValueError: if the two batches differ in shape.
        """
        if z0.shape != z1.shape or z0.dim() != 2:
            raise ValueError(
                f"z0 has shape {tuple(z0.shape)} and z1 {tuple(z1.shape)}; give two (batch, dim) tensors alike."
            )
        with torch.autocast(z0.device.type, enabled=False):
            anchors = F.normalize(torch.cat([z0, z1]).float(), dim=1)
            candidates, rank = _gather_with_summed_gradient(anchors)
            batch, total = len(anchors), len(candidates)
            own = torch.arange(batch, device=anchors.device)
            itself = own + rank * batch
            positive = (own + batch // 2) % batch + rank * batch
            logits = anchors @ candidates.T / self.temperature
            logits = logits.masked_fill(itself[:, None] == torch.arange(total, device=anchors.device), float("-inf"))
            return F.cross_entropy(logits, positive)


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
