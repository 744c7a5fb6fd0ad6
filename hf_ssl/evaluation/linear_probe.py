"""The linear probe: a linear classifier on the features of a frozen encoder.

Protocol of MAE (He et al. 2022, appendix A.1, "Linear probing"): a batch norm without affine parameters
standardises the features, then one linear layer. On cached features the problem is convex, so by default it
is solved to its optimum by L-BFGS instead of following a schedule; its one setting, the L2 penalty, is chosen
on a part of the training images (`choices.py`). Augmentation has no place here: features are computed once.
"""

import torch
from torch import nn

from hf_ssl.evaluation.choices import MAX_ROWS, choose_settings, choose_weight_decay
from hf_ssl.evaluation.lbfgs import minimize_lbfgs
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.stochastic import train_stochastic

# As losses are 1 to 4, this leaves about a ten-thousandth of them; accuracies hardly move from there on.
TOLERANCE = 3e-5


class LinearProbe(nn.Module):
    """Batch norm without affine (ε 1e-6), if any, then a linear layer.

    Attributes:
        norm: `nn.BatchNorm1d`, or `nn.Identity` without batch norm.
        classifier: `nn.Linear` from the standardised features to the classes, zero until it is fitted.
        weight_decay: the L2 penalty that the classifier was fitted with; None before.
        learning_rate: the peak that it was fitted with by sgd or lars; None before, and for lbfgs.
    """

    def __init__(self, num_features: int, num_classes: int, batch_norm: bool = True):
        super().__init__()
        self.norm = nn.BatchNorm1d(num_features, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        self.classifier = nn.Linear(num_features, num_classes)
        self.weight_decay: float | None = None
        self.learning_rate: float | None = None
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
        The probe in eval mode on the CPU; its `weight_decay` and `learning_rate` are those given or chosen.

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
        covariance = _covariance(inputs)
        probe.weight_decay = arguments.weight_decay
        if len(arguments.weight_decays) != 1:
            probe.weight_decay = choose_weight_decay(inputs, labels, num_classes, covariance, arguments)
        minimize_lbfgs(
            probe.classifier,
            inputs,
            labels,
            probe.weight_decay,
            covariance,
            max_iterations=arguments.max_iterations,
            tolerance=TOLERANCE,
        )
    else:
        settings = [(rate, decay) for rate in arguments.learning_rates for decay in arguments.weight_decays]
        chosen = settings[0]
        if len(settings) > 1:
            chosen = choose_settings(inputs, labels, num_classes, settings, arguments)
        probe.learning_rate, probe.weight_decay = chosen
        weights, biases = train_stochastic(inputs, labels, num_classes, [chosen], arguments)
        with torch.no_grad():
            probe.classifier.weight.copy_(weights[0])
            probe.classifier.bias.copy_(biases[0])

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


def _covariance(inputs: torch.Tensor) -> torch.Tensor:
    """(D, D) of at most MAX_ROWS of the inputs, which is as good a guide to the solver as that of all of them."""
    rows = torch.arange(min(len(inputs), MAX_ROWS), device=inputs.device) * len(inputs) // min(len(inputs), MAX_ROWS)
    return torch.cov(inputs[rows].T, correction=0)


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
