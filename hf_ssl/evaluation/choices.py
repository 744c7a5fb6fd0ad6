"""Choosing a linear probe's settings on a tenth of the training images, which no candidate is fitted to.

Test images have no part in it. The classifier is then fitted to all training images with what was chosen.
"""

from collections.abc import Sequence

import torch
from torch import nn

from hf_ssl.evaluation.lbfgs import minimize_lbfgs
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.stochastic import train_stochastic

# Weight decays from the simplest classifier to the freest, the share of training images that judges them, and the
# number of images they are fitted to, which keeps the choice cheaper than the final fit.
CANDIDATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
HELD_OUT_EVERY = 10
MAX_ROWS = 10_000

# Far fewer iterations reach this than the final fit takes.
ROUGH_TOLERANCE = 1e-3


@torch.no_grad()
def choose_weight_decay(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    covariance: torch.Tensor,
    arguments: ProbeArguments,
) -> float:
    """Choose the L2 penalty of L-BFGS by the accuracy on the held-out images.

    Candidates run from strong to weak, each from its predecessor's solution, until two in a row are worse than the
    best; a tie goes to the stronger one. They are fitted roughly, in bfloat16 where the machine is faster at it. The
    penalty is that of the mean loss: what was chosen for n of the N images is scaled by n / N, which keeps its weight
    against the sum over the images, the prior of a MAP estimate.

    Args:
        inputs: float32 (N, D), standardised if the probe has a batch norm.
        labels: int64 (N,).
        num_classes: number of classes.
        covariance: float32 (D, D) of the inputs.
        arguments: `weight_decay` (several, or None for CANDIDATES), `max_iterations` and `seed` are used.

    Raises:
        ValueError: fewer than 20 images.
    """
    fitted, held_out = _split_rows(labels, arguments.seed, MAX_ROWS)
    fitted_inputs, fitted_labels = inputs[fitted].to(_rough_dtype(inputs.device)), labels[fitted]
    held_out_inputs, held_out_labels = inputs[held_out], labels[held_out]

    candidates = sorted(arguments.weight_decays or CANDIDATES, reverse=True)
    classifier = nn.Linear(inputs.shape[1], num_classes, device=inputs.device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    accuracies: list[float] = []
    for candidate in candidates:
        minimize_lbfgs(
            classifier,
            fitted_inputs,
            fitted_labels,
            candidate,
            covariance,
            max_iterations=arguments.max_iterations,
            tolerance=ROUGH_TOLERANCE,
        )
        predicted = classifier(held_out_inputs).argmax(dim=1)
        accuracies.append((predicted == held_out_labels).float().mean().item())
        if len(accuracies) > 2 and max(accuracies[-2:]) < max(accuracies):
            break
    chosen = candidates[accuracies.index(max(accuracies))]
    return chosen * len(fitted) / len(labels)


@torch.no_grad()
def choose_settings(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    settings: Sequence[tuple[float, float]],
    arguments: ProbeArguments,
) -> tuple[float, float]:
    """Choose the pair of learning rate and weight decay of SGD or LARS by the accuracy on the held-out images.

    All pairs are trained at once on the other nine tenths. A tie goes to the pair that comes first; one that is no
    longer finite is worse than any other.

    Args:
        inputs: float32 (N, D), standardised if the probe has a batch norm.
        labels: int64 (N,).
        num_classes: number of classes.
        settings: pairs of peak learning rate and weight decay.
        arguments: with solver sgd or lars.

    Raises:
        ValueError: fewer than 20 images.
    """
    fitted, held_out = _split_rows(labels, arguments.seed)
    weights, biases = train_stochastic(inputs[fitted], labels[fitted], num_classes, settings, arguments)
    accuracies = []
    for weight, bias in zip(weights, biases, strict=True):
        correct = nn.functional.linear(inputs[held_out], weight, bias).argmax(dim=1) == labels[held_out]
        accuracies.append(correct.float().mean().item() if weight.isfinite().all() else -1.0)
    return settings[accuracies.index(max(accuracies))]


def _split_rows(labels: torch.Tensor, seed: int, max_rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to fit, at most `max_rows`, and rows to judge by, every class in both in proportion (but for rounding)."""
    if len(labels) < 2 * HELD_OUT_EVERY:
        raise ValueError(
            f"{len(labels)} training images are too few to choose weight_decay or learning_rate on; give one of each, "
            f"such as weight_decay 0.01, or at least {2 * HELD_OUT_EVERY} images."
        )
    device, labels = labels.device, labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    is_held_out = torch.arange(len(labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
    fitted, held_out = by_class[~is_held_out], by_class[is_held_out]
    if max_rows is not None and len(fitted) > max_rows:
        fitted = fitted[torch.arange(max_rows) * len(fitted) // max_rows]
    return fitted.to(device), held_out.to(device)


def _rough_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16
    fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
