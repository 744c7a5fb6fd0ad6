"""SGD and LARS for linear classifiers on features that fit into memory, a whole grid of settings in one pass.

All classifiers of a grid see the same batches: their scores are one product with the batch, and so are their
gradients. Each of them is trained as if it were alone.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from hf_ssl.evaluation.probe_arguments import ProbeArguments

TRUST_COEFFICIENT = 0.001


@torch.no_grad()
def train_stochastic(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    settings: Sequence[tuple[float, float]],
    arguments: ProbeArguments,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimise mean cross-entropy + weight_decay / 2 · |W|² by minibatches, once for each setting.

    Weights start as in MAE's code (σ 0.01), the same for all, and biases, which are not penalised, at 0. LARS (You et
    al. 2017) scales the weights also where there is no decay, and the biases never (MAE's `util/lars.py`). Every epoch
    has an order of its own and takes every image once; its last batch may be short.

    Args:
        inputs: float32 (N, D).
        labels: int64 (N,), on the same device.
        num_classes: number of classes C.
        settings: G pairs of peak learning rate and weight decay.
        arguments: with solver sgd or lars; their rates and decays are not used.

    Returns:
        Weights float32 (G, C, D) and biases (G, C), on the inputs' device; not finite where training diverged.
    """
    num_settings, num_features, device = len(settings), inputs.shape[1], inputs.device
    generator = torch.Generator().manual_seed(arguments.seed)
    initial = 0.01 * torch.randn(num_classes, num_features, generator=generator)
    weights = initial.to(device).repeat(num_settings, 1, 1)
    biases = torch.zeros(num_settings, num_classes, device=device)
    weight_momenta, bias_momenta = torch.zeros_like(weights), torch.zeros_like(biases)
    rates, decays = torch.tensor(settings, dtype=torch.float32, device=device).T.reshape(2, num_settings, 1, 1)

    batches_per_epoch = math.ceil(len(inputs) / arguments.batch_size)
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(inputs), generator=generator).to(device)
        for index, rows in enumerate(order.split(arguments.batch_size)):
            batch, targets = inputs[rows], labels[rows]
            scores = functional.linear(batch, weights.flatten(0, 1), biases.flatten())
            residuals = scores.view(len(rows), num_settings, num_classes).softmax(dim=2)
            of_label = targets[:, None, None].expand(-1, num_settings, 1)
            residuals.scatter_add_(2, of_label, residuals.new_full((1, 1, 1), -1.0).expand_as(of_label))
            residuals /= len(rows)
            weight_gradients = (residuals.flatten(1).T @ batch).view_as(weights)
            if arguments.solver == "lars":
                trust = _trust_ratios(weights, weight_gradients, decays)
                weight_gradients = trust * weight_gradients.addcmul_(weights, decays)
            else:
                weight_gradients.addcmul_(weights, decays)
            weight_momenta.mul_(arguments.momentum).add_(weight_gradients)
            bias_momenta.mul_(arguments.momentum).add_(residuals.sum(dim=0))
            rate = rates * learning_rate_factor(epoch + index / batches_per_epoch, arguments)
            weights.addcmul_(weight_momenta, rate, value=-1)
            biases.addcmul_(bias_momenta, rate[:, 0], value=-1)
    return weights, biases


def _trust_ratios(weights: torch.Tensor, gradients: torch.Tensor, decays: torch.Tensor) -> torch.Tensor:
    """LARS's factors (G, 1, 1); 1 where the weights or their gradient are zero."""
    weight_norms = torch.linalg.vector_norm(weights, dim=(1, 2), keepdim=True)
    gradient_norms = torch.linalg.vector_norm(gradients, dim=(1, 2), keepdim=True)
    ratios = TRUST_COEFFICIENT * weight_norms / (gradient_norms + decays * weight_norms + 1e-8)
    return torch.where((weight_norms > 0) & (gradient_norms > 0), ratios, 1.0)


def learning_rate_factor(epoch: float, arguments: ProbeArguments) -> float:
    """The learning rate after `epoch` epochs, which may be a fraction, as a share of the peak in [0, 1]."""
    if epoch < arguments.warmup_epochs:
        return epoch / arguments.warmup_epochs
    if arguments.schedule == "cosine":
        length = arguments.epochs - arguments.warmup_epochs
        return 0.5 * (1 + math.cos(math.pi * (epoch - arguments.warmup_epochs) / length))
    return 0.1 ** sum(epoch >= milestone for milestone in arguments.milestones)
