"""L-BFGS for the cross-entropy of a linear classifier on features that fit into memory.

Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming 1989, with
what this problem offers beside a general one:

- Features of an encoder are strongly correlated, which makes plain L-BFGS slow. Its first guess at the inverse Hessian
  is therefore the inverse at zero weights, of covariance / C + weight_decay · I for each class: steps of length 1 suit
  from the first on.
- Scores are linear in the weights: those along a search direction cost one product with the features, after which the
  line search needs none. An iteration is two products (N, D) × (D, C), however many step lengths it tries.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

HISTORY_SIZE = 10
# A step is accepted once the slope along the direction has shrunk to this share (strong Wolfe's second condition).
CURVATURE_SHARE = 0.5
MAX_STEP_LENGTHS = 12


@torch.no_grad()
def minimize_lbfgs(
    classifier: nn.Linear,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    weight_decay: float,
    covariance: torch.Tensor,
    *,
    max_iterations: int,
    tolerance: float,
) -> None:
    """Minimise mean cross-entropy + weight_decay / 2 · |W|² in place, from the layer's present parameters.

    Args:
        classifier: (D → C), float32 on the inputs' device. Its biases are not penalised.
        inputs: (N, D) of the type that the products with them are computed in: float32, or bfloat16 for an optimum
            to about three digits.
        labels: int64 (N,).
        weight_decay: at least 0.
        covariance: float32 (D, D) of these inputs or of more of the same kind; only the speed depends on it.
        max_iterations: stops here at the latest.
        tolerance: stops where the objective is estimated to be this close to its minimum (half the Newton decrement
            in L-BFGS's own metric; where features are badly conditioned it is up to some ten times as far).
    """
    num_classes = classifier.out_features
    # In centred coordinates weights and biases do not disturb each other; centring a copy would double the memory.
    mean = inputs.mean(dim=0, dtype=torch.float32)
    factor = _hessian_factor(covariance, num_classes, weight_decay)

    def scores_of(parameters: torch.Tensor) -> torch.Tensor:
        weight, bias = parameters[:, :-1], parameters[:, -1]
        return (inputs @ weight.to(inputs.dtype).T).float() + (bias - weight @ mean)

    def gradient_at(probabilities: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        residuals = probabilities.scatter_add(1, labels[:, None], -torch.ones_like(probabilities[:, :1]))
        bias = residuals.mean(dim=0)[:, None]
        weight = (residuals.to(inputs.dtype).T @ inputs).float() / len(inputs) - bias * mean + weight_decay * weight
        return torch.cat([weight, bias], dim=1)

    def solve(gradient: torch.Tensor) -> torch.Tensor:
        weight = torch.cholesky_solve(gradient[:, :-1].T, factor).T
        return torch.cat([weight, num_classes * gradient[:, -1:]], dim=1)

    weight, bias = classifier.weight, classifier.bias
    parameters = torch.cat([weight, (bias + weight @ mean)[:, None]], dim=1)
    scores = scores_of(parameters)
    gradient = gradient_at(scores.softmax(dim=1), parameters[:, :-1])
    history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for _ in range(max_iterations):
        # Rounded as the products will see it: parameters and scores then stay those of each other.
        direction = -_apply_inverse(gradient, history, solve).to(inputs.dtype).float()
        slope = (gradient * direction).sum().item()
        if not -slope / 2 > tolerance:
            break
        change = scores_of(direction)
        penalty = (
            weight_decay * (parameters[:, :-1] * direction[:, :-1]).sum().item(),
            weight_decay * direction[:, :-1].square().sum().item(),
        )
        length, probabilities = _search_line(scores, change, labels, penalty, slope)
        parameters += length * direction
        scores += length * change
        previous, gradient = gradient, gradient_at(probabilities, parameters[:, :-1])
        step, difference = length * direction, gradient - previous
        curvature = _dot(step, difference)
        if curvature > 0:
            history = [*history, (step, difference, curvature)][-HISTORY_SIZE:]
    weight.copy_(parameters[:, :-1])
    bias.copy_(parameters[:, -1] - weight @ mean)


def _apply_inverse(
    gradient: torch.Tensor,
    history: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    solve: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The two-loop recursion: the inverse Hessian that the history's steps and gradients imply, times the gradient."""
    vector, shares = gradient.clone(), []
    for step, difference, curvature in reversed(history):
        shares.append(_dot(step, vector) / curvature)
        vector.addcmul_(difference, shares[-1], value=-1)
    vector = solve(vector).contiguous()
    for step, difference, curvature in history:
        vector.addcmul_(step, shares.pop() - _dot(difference, vector) / curvature)
    return vector


def _dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return first.view(-1) @ second.view(-1)


def _search_line(
    scores: torch.Tensor, change: torch.Tensor, labels: torch.Tensor, penalty: tuple[float, float], slope: float
) -> tuple[float, torch.Tensor]:
    """A step length at which the objective has nearly stopped falling, and the class probabilities there.

    Newton's method in one dimension from length 1; where it leaves what is known to enclose the minimum, that is
    doubled or halved. The objective is convex, so that the slope alone tells on which side the minimum is.

    Args:
        scores: (N, C) at length 0.
        change: (N, C) of the scores by a step of length 1.
        labels: (N,).
        penalty: slope of the penalty at length 0, and its curvature.
        slope: of the objective at length 0, below 0.
    """
    length, low, high = 1.0, 0.0, math.inf
    change_of_label = change.gather(1, labels[:, None]).mean()
    for _ in range(MAX_STEP_LENGTHS):
        probabilities = torch.add(scores, change, alpha=length).softmax(dim=1)
        weighted = probabilities * change
        first = weighted.sum(dim=1)
        second = (weighted * change).sum(dim=1) - first.square()
        # One transfer for both numbers: on a GPU each waits for all that is queued.
        here, curvature = torch.stack([first.mean() - change_of_label, second.mean()]).tolist()
        here, curvature = here + penalty[0] + length * penalty[1], curvature + penalty[1]
        if abs(here) <= CURVATURE_SHARE * -slope:
            break
        low, high = (length, high) if here < 0 else (low, length)
        newton = length - here / curvature if curvature > 0 else math.inf
        if low < newton < min(high, 4 * length):
            length = newton
        else:
            length = 2 * length if high == math.inf else (low + high) / 2
    return length, probabilities


def _hessian_factor(covariance: torch.Tensor, num_classes: int, weight_decay: float) -> torch.Tensor:
    """The Cholesky factor of one class's Hessian at zero weights, computed in float64."""
    if not covariance.isfinite().all():
        raise FloatingPointError(
            "The products of the features are too large for float32; set batch_norm, which standardises them."
        )
    hessian = covariance.double() / num_classes
    # The rounding of a float32 covariance makes eigenvalues of 0 slightly negative.
    rounding = 1e-4 * hessian.diagonal().mean() + 1e-12
    hessian.diagonal().add_(weight_decay + rounding)
    return torch.linalg.cholesky(hessian).float()
