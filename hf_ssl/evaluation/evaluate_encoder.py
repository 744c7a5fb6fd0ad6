"""Linear-probe evaluation of encoders on one data set, with the raw pixels beside them.

An accuracy means little alone: the same architecture at random initialisation and the raw pixels say what the
probe gets without any pretraining.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_ssl.data import ImageLoader
from hf_ssl.evaluation.features import Features, extract_features, extract_pixels
from hf_ssl.evaluation.linear_probe import LinearProbe, fit_linear_probe
from hf_ssl.evaluation.metrics.compute import compute_metrics
from hf_ssl.evaluation.probe_arguments import ProbeArguments

logger = logging.getLogger(__name__)


@dataclass
class LinearProbeEvaluation:
    """What a linear-probe evaluation gives.

    Attributes:
        results: the rows of results.json's `evaluation.results`, the raw pixels last.
        protocol: results.json's `evaluation.protocol`: the arguments, and under `chosen_weight_decay` the L2
            penalty of each encoder's classifier.
        classifiers: for each encoder (not the pixels) its classifier on unstandardised features, one linear
            layer.
        num_train: images that the classifiers were fitted to.
        num_test: images that the results are measured on.
        wall_time_s: seconds for all of it.
    """

    results: list[dict[str, Any]]
    protocol: dict[str, Any]
    classifiers: dict[str, nn.Linear]
    num_train: int
    num_test: int
    wall_time_s: float


def evaluate_linear_probe(
    encoders: Mapping[str, nn.Module],
    train_loader: ImageLoader,
    test_loader: ImageLoader,
    *,
    num_classes: int,
    output_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    arguments: ProbeArguments | None = None,
    crop_fraction: float = 1.0,
    raw_pixels: bool = True,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    report: Callable[[str], None] = logger.info,
) -> LinearProbeEvaluation:
    """Fit a linear probe on each encoder's training features and measure it on the test images.

    Args:
        encoders: "pretrained" and "random" to modules on `device` whose output has a `pooler_output`.
        train_loader: images that the classifiers are fitted to, with `shuffle=False` and `drop_last=False`.
        test_loader: images that they are measured on, likewise; nothing is chosen on them.
        num_classes: number of classes of the data set.
        output_size: side in pixels of what the encoders see.
        mean: 3 channel means in [0, 1] that the encoders were trained with.
        std: 3 channel standard deviations in [0, 1].
        arguments: how the classifiers are fitted.
        crop_fraction: see `extract_features`.
        raw_pixels: whether to evaluate the raw pixels too.
        device: where to render, encode and fit.
        autocast_dtype: of the encoders; float32 if not given.
        report: called with a line of text as each step ends.

    Raises:
        ValueError: the data have no labels or more classes than `num_classes`, or as `fit_linear_probe` and
            `extract_features`.
    """
    arguments = ProbeArguments() if arguments is None else arguments
    start = time.perf_counter()
    view = {"output_size": output_size, "crop_fraction": crop_fraction, "device": device}
    encode = {"mean": mean, "std": std, "autocast_dtype": autocast_dtype, **view}

    extractors: dict[str, Callable[[ImageLoader], Features]] = {
        name: lambda loader, encoder=encoder: extract_features(encoder, loader, **encode)
        for name, encoder in encoders.items()
    }
    if raw_pixels:
        extractors["raw_pixels"] = lambda loader: extract_pixels(loader, **view)

    results, classifiers, weight_decays = [], {}, {}
    for name, extract in extractors.items():
        step_start = time.perf_counter()
        train, test = extract(train_loader), extract(test_loader)
        report(
            f"{name}: {train.features.shape[1]} features of {len(train.labels)} + {len(test.labels)} images "
            f"in {time.perf_counter() - step_start:.1f} s"
        )
        missing = num_classes - len(train.labels.unique())
        if missing:
            raise ValueError(
                f"The {len(train.labels)} training images hold no image of {missing} of the {num_classes} classes; "
                "fit to more of them, or to a split that is not sorted by class."
            )
        step_start = time.perf_counter()
        probe = fit_linear_probe(train.features, train.labels, num_classes, arguments, device=device)
        row = _result_row(name, probe, test)
        report(
            f"{name}: accuracy {row['accuracy']:.1%}, macro F1 {row['macro_f1']:.3f} (weight decay "
            f"{probe.weight_decay:.2g}, fitted in {time.perf_counter() - step_start:.1f} s)"
        )
        results.append(row)
        weight_decays[name] = probe.weight_decay
        if name in encoders:
            classifiers[name] = probe.folded()
    return LinearProbeEvaluation(
        results=results,
        protocol={**dataclasses.asdict(arguments), "chosen_weight_decay": weight_decays},
        classifiers=classifiers,
        num_train=len(train.labels),
        num_test=len(test.labels),
        wall_time_s=time.perf_counter() - start,
    )


def _result_row(encoder: str, probe: LinearProbe, test: Features) -> dict[str, Any]:
    with torch.inference_mode():
        scores = probe(test.features)
    return {
        "encoder": encoder,
        "classifier": "linear_probe",
        **compute_metrics(scores, test.labels),
        "feature_dim": test.features.shape[1],
    }
