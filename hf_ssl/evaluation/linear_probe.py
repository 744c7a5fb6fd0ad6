"""The linear probe: a linear classifier on the features of a frozen encoder.

Protocol of MAE (He et al. 2022, appendix A.1, "Linear probing"): a batch norm without affine parameters
standardises the features, then one linear layer. On cached features the problem is convex, so by default it
is solved to its optimum by L-BFGS instead of following a schedule; its one setting, the L2 penalty, is chosen
on a part of the training images. Augmentation has no place here: features are computed once.
"""

import torch
from torch import nn

from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.solvers import minimize_lbfgs, minimize_stochastic

# The choice of the weight decay: candidates from the simplest classifier to the freest, the share of training
# images that judges them, and the number of images they are fitted to, which keeps the choice cheaper than
# the final fit.
CANDIDATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
HELD_OUT_EVERY = 10
MAX_ROWS = 10_000


class LinearProbe(nn.Module):
    """Batch norm without affine (ε 1e-6), if any, then a linear layer.

    Attributes:
        norm: `nn.BatchNorm1d`, or `nn.Identity` without batch norm.
        classifier: `nn.Linear` from the standardised features to the classes, zero until it is fitted.
        weight_decay: the L2 penalty that the classifier was fitted with; None before.
    """

    def __init__(self, num_features: int, num_classes: int, batch_norm: bool = True):
        super().__init__()
        self.norm = nn.BatchNorm1d(num_features, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        self.classifier = nn.Linear(num_features, num_classes)
        self.weight_decay: float | None = None
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (N, C) of features (N, D)."""
        return self.classifier(self.norm(features))

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The same function, in eval mode, as one linear layer: the head of a published repository."""
        weight, bias = self.classifier.weight.double(), self.classifier.bias.double()
        if isinstance(self.norm, nn.BatchNorm1d):
            weight = weight / (self.norm.running_var.double() + self.norm.eps).sqrt()
            bias = bias - weight @ self.norm.running_mean.double()
        head = nn.Linear(self.classifier.in_features, self.classifier.out_features)
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        return head


def fit_linear_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    arguments: ProbeArguments | None = None,
    *,
    device: torch.device | str = "cpu",
) -> LinearProbe:
    """Fit a linear probe to the features of the training images; the same arguments give the same probe.

    The batch norm holds mean and population variance of all of them, where training on batches would leave a
    running average.

    Args:
        features: float32 (N, D) on the CPU.
        labels: int64 (N,) on the CPU, in [0, num_classes).
        num_classes: number of classes of the data set.
        arguments: how to fit; L-BFGS with a weight decay of its own choice if not given.
        device: where to compute.

    Returns:
        The probe in eval mode on the CPU; its `weight_decay` is the one given or chosen.

    Raises:
        ValueError: features or labels of the wrong shape, labels outside the classes, features that are not
            finite, or too few images to choose the weight decay on.
        FloatingPointError: the fit diverged.
    """
    arguments = ProbeArguments() if arguments is None else arguments
    _check_data(features, labels, num_classes)

    probe = LinearProbe(features.shape[1], num_classes, arguments.batch_norm).eval()
    if arguments.batch_norm:
        set_statistics(probe.norm, features)
    with torch.no_grad():
        inputs = probe.norm(features).to(device)
    labels = labels.to(device)

    probe.classifier.to(device)
    if arguments.solver == "lbfgs":
        covariance = torch.cov(inputs.T, correction=0)
        probe.weight_decay = arguments.weight_decay
        if probe.weight_decay is None:
            probe.weight_decay = choose_weight_decay(inputs, labels, num_classes, covariance, arguments)
        minimize_lbfgs(probe.classifier, inputs, labels, probe.weight_decay, arguments.max_iterations, covariance)
    else:
        probe.weight_decay = arguments.weight_decay
        minimize_stochastic(probe.classifier, inputs, labels, arguments)

    if not all(parameter.isfinite().all() for parameter in probe.parameters()):
        raise FloatingPointError(
            f"The linear probe diverged with {arguments}; lower learning_rate, or set batch_norm for "
            f"features as large as {features.abs().max():.3g}."
        )
    return probe.to("cpu").requires_grad_(False)


@torch.no_grad()
def set_statistics(norm: nn.BatchNorm1d, features: torch.Tensor) -> None:
    """Set the running statistics to mean and population variance of features (N, D), summed in float64."""
    # In blocks of columns: a float64 copy of all features would take twice their memory.
    blocks = [torch.var_mean(block.double(), dim=0, correction=0) for block in features.split(256, dim=1)]
    norm.running_var.copy_(torch.cat([variance for variance, _ in blocks]))
    norm.running_mean.copy_(torch.cat([mean for _, mean in blocks]))


def choose_weight_decay(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    covariance: torch.Tensor,
    arguments: ProbeArguments,
) -> float:
    """Choose the L2 penalty by accuracy on a tenth of the training images, which no candidate is fitted to.

    Candidates run from strong to weak, each from its predecessor's solution, until two in a row are worse
    than the best; a tie goes to the stronger one. The penalty is that of the mean loss: what was chosen for n
    of the N images is scaled by n / N, which keeps its weight against the sum over the images, the prior of a
    MAP estimate.

    Args:
        inputs: float32 (N, D), standardised if the probe has a batch norm.
        labels: int64 (N,).
        num_classes: number of classes.
        covariance: float32 (D, D) of the inputs.
        arguments: `max_iterations` and `seed` are used.

    Raises:
        ValueError: fewer than 20 images.
    """
    if len(labels) < 2 * HELD_OUT_EVERY:
        raise ValueError(
            f"{len(labels)} training images are too few to choose weight_decay on; give one, such as 0.01, "
            f"or at least {2 * HELD_OUT_EVERY} images."
        )
    fitted, held_out = _split_rows(labels.cpu(), arguments.seed)
    fitted, held_out = fitted.to(inputs.device), held_out.to(inputs.device)
    fitted_inputs, fitted_labels = inputs[fitted], labels[fitted]
    held_out_inputs, held_out_labels = inputs[held_out], labels[held_out]

    classifier = LinearProbe(inputs.shape[1], num_classes, batch_norm=False).classifier.to(inputs.device)
    accuracies: list[float] = []
    for candidate in CANDIDATES:
        minimize_lbfgs(classifier, fitted_inputs, fitted_labels, candidate, arguments.max_iterations, covariance)
        with torch.no_grad():
            predicted = classifier(held_out_inputs).argmax(dim=1)
        accuracies.append((predicted == held_out_labels).float().mean().item())
        if len(accuracies) > 2 and max(accuracies[-2:]) < max(accuracies):
            break
    chosen = CANDIDATES[accuracies.index(max(accuracies))]
    return chosen * len(fitted) / len(labels)


def _split_rows(labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to fit and rows to judge by, every class in both in proportion (but for rounding)."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    is_held_out = torch.arange(len(labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
    fitted, held_out = by_class[~is_held_out], by_class[is_held_out]
    if len(fitted) > MAX_ROWS:
        fitted = fitted[torch.arange(MAX_ROWS) * len(fitted) // MAX_ROWS]
    return fitted, held_out


def _check_data(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features has shape {tuple(features.shape)} and labels {tuple(labels.shape)}; give (N, D) and "
            "(N,) for at least 1 image."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"The labels range from {labels.min()} to {labels.max()}, but there are {num_classes} classes; "
            f"give labels from 0 to {num_classes - 1} (-1 stands for a data set without labels)."
        )
    if not features.isfinite().all():
        raise ValueError("The features hold values that are not finite; check the encoder, or extract in float32.")
