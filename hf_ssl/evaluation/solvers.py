"""Minimise the cross-entropy of a linear classifier on features that fit into memory.

Both functions minimise mean cross-entropy + weight_decay / 2 · |W|² over a linear layer, in place. The biases
are not penalised.
"""

import math

import torch
from timm.optim import Lars
from torch import nn
from torch.nn import functional

from hf_ssl.evaluation.probe_arguments import ProbeArguments


def minimize_lbfgs(
    classifier: nn.Linear,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    weight_decay: float,
    max_iterations: int,
    covariance: torch.Tensor,
) -> None:
    """Full-batch L-BFGS with a strong Wolfe line search, from the layer's present parameters.

    Features of an encoder are strongly correlated, which makes plain L-BFGS slow. So it works in coordinates
    in which the Hessian at zero weights, covariance / C + weight_decay · I for each class, is the identity:
    about a third of the iterations on features of random encoders and on pixels.

    Args:
        classifier: (D → C), on the inputs' device.
        inputs: float32 (N, D).
        labels: int64 (N,).
        weight_decay: at least 0.
        max_iterations: stops here, or before where gradient or progress are down to rounding.
        covariance: float32 (D, D) of these inputs or of more of the same kind; only the speed depends on it.
    """
    mean, root = inputs.mean(dim=0), classifier.out_features**0.5
    factor = _hessian_factor(covariance, classifier.out_features, weight_decay).to(inputs)
    with torch.no_grad():
        weight = classifier.weight @ factor
        bias = (classifier.bias + classifier.weight @ mean) / root
    weight.requires_grad_()
    bias.requires_grad_()

    def layer() -> tuple[torch.Tensor, torch.Tensor]:
        original = torch.linalg.solve_triangular(factor, weight, upper=False, left=False)
        return original, root * bias - original @ mean

    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def evaluate_loss() -> torch.Tensor:
        optimizer.zero_grad()
        original_weight, original_bias = layer()
        loss = functional.cross_entropy(functional.linear(inputs, original_weight, original_bias), labels)
        loss = loss + weight_decay / 2 * original_weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(evaluate_loss)
    with torch.no_grad():
        for parameter, value in zip((classifier.weight, classifier.bias), layer(), strict=True):
            parameter.copy_(value)


def _hessian_factor(covariance: torch.Tensor, num_classes: int, weight_decay: float) -> torch.Tensor:
    """The Cholesky factor of one class's Hessian at zero weights, float64 on the CPU."""
    hessian = covariance.double().cpu() / num_classes
    # The rounding of a float32 covariance makes eigenvalues of 0 slightly negative.
    rounding = 1e-4 * hessian.diagonal().mean() + 1e-12
    hessian.diagonal().add_(weight_decay + rounding)
    return torch.linalg.cholesky(hessian)


def minimize_stochastic(
    classifier: nn.Linear, inputs: torch.Tensor, labels: torch.Tensor, arguments: ProbeArguments
) -> None:
    """Minibatches of SGD or LARS, from weights drawn as in MAE's code (σ 0.01) and biases of 0.

    LARS scales the weights also where there is no decay, and the biases never (MAE's `util/lars.py`). Every
    epoch has an order of its own and takes every image once; its last batch may be short.

    Args:
        classifier: (D → C), on the inputs' device.
        inputs: float32 (N, D).
        labels: int64 (N,).
        arguments: with solver sgd or lars.
    """
    generator = torch.Generator().manual_seed(arguments.seed)
    with torch.no_grad():
        classifier.weight.copy_(0.01 * torch.randn(classifier.weight.shape, generator=generator))
        classifier.bias.zero_()
    groups = [
        {"params": [classifier.weight], "weight_decay": arguments.weight_decay},
        {"params": [classifier.bias], "weight_decay": 0.0},
    ]
    if arguments.solver == "sgd":
        optimizer = torch.optim.SGD(groups, lr=arguments.learning_rate, momentum=arguments.momentum)
    else:
        groups[0]["always_adapt"] = True
        optimizer = Lars(groups, lr=arguments.learning_rate, momentum=arguments.momentum, trust_coeff=0.001)

    batches_per_epoch = math.ceil(len(inputs) / arguments.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step / batches_per_epoch, arguments)
    )
    for _ in range(arguments.epochs):
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        for rows in order.split(arguments.batch_size):
            loss = functional.cross_entropy(classifier(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def learning_rate_factor(epoch: float, arguments: ProbeArguments) -> float:
    """The learning rate after `epoch` epochs, which may be a fraction, as a share of the peak in [0, 1]."""
    if epoch < arguments.warmup_epochs:
        return epoch / arguments.warmup_epochs
    if arguments.schedule == "cosine":
        length = arguments.epochs - arguments.warmup_epochs
        return 0.5 * (1 + math.cos(math.pi * (epoch - arguments.warmup_epochs) / length))
    return 0.1 ** sum(epoch >= milestone for milestone in arguments.milestones)
