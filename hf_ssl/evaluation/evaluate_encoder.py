"""Evaluation of frozen encoders on one data set by a linear probe and by kNN, with the raw pixels beside them.

An accuracy means little alone: the same architecture at random initialisation and the raw pixels say what the
classifiers get without any pretraining.
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
from hf_ssl.evaluation.features import extract_all
from hf_ssl.evaluation.knn import TEMPERATURE, K, check_neighbours, knn_scores
from hf_ssl.evaluation.linear_probe import fit_linear_probe
from hf_ssl.evaluation.metrics.compute import compute_metrics
from hf_ssl.evaluation.probe_arguments import ProbeArguments

logger = logging.getLogger(__name__)


@dataclass
class EncoderEvaluation:
    """What an evaluation of encoders gives.

    Attributes:
        results: the rows of results.json's `evaluation.results`: those of the linear probe, the raw pixels last, then
            those of kNN in the same order.
        protocol: results.json's `evaluation.protocol`: the arguments, and under `chosen_weight_decay` the L2
            penalty of each encoder's classifier; under `chosen_learning_rate` its peak where several were given.
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


def evaluate_encoders(
    encoders: Mapping[str, nn.Module],
    train_loader: ImageLoader,
    test_loader: ImageLoader,
    *,
    num_classes: int,
    output_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    arguments: ProbeArguments | None = None,
    knn_k: int | None = K,
    knn_temperature: float = TEMPERATURE,
    crop_fraction: float = 1.0,
    raw_pixels: bool = True,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    report: Callable[[str], None] = logger.info,
) -> EncoderEvaluation:
    """Classify the test images by each encoder's features, which are extracted once for all classifiers.

    The classifiers are a linear probe and weighted k nearest neighbours, both on the training images. For the top-5
    accuracy of kNN the classes are ranked by their shares of the votes, the lower class first where shares are equal.
    A class without a vote is no answer: where the neighbours have fewer than 5 classes, nothing fills the places.

    Args:
        encoders: "pretrained" and "random" to modules on `device` whose output has a `pooler_output`.
        train_loader: images that the probe is fitted to and that vote in kNN, with `shuffle=False` and
            `drop_last=False`.
        test_loader: images that both are measured on, likewise; nothing is chosen on them.
        num_classes: number of classes of the data set.
        output_size: side in pixels of what the encoders see.
        mean: 3 channel means in [0, 1] that the encoders were trained with.
        std: 3 channel standard deviations in [0, 1].
        arguments: how the linear probe is fitted.
        knn_k: number of neighbours; None leaves kNN out.
        knn_temperature: see `knn_scores`.
        crop_fraction: see `extract_all`.
        raw_pixels: whether to evaluate the raw pixels too.
        device: where to render, encode, fit and search.
        autocast_dtype: of the encoders; float32 if not given.
        report: called with a line of text as each step ends.

    Raises:
        ValueError: the data have no labels or more classes than `num_classes`, there are fewer than `knn_k` training
            images, or as `fit_linear_probe` and `extract_all`.
    """
    arguments = ProbeArguments() if arguments is None else arguments
    if knn_k is not None:
        check_neighbours(knn_k, knn_temperature, train_loader.source.num_rows)
    start = time.perf_counter()
    train, test = (
        extract_all(
            encoders,
            loader,
            output_size=output_size,
            mean=mean,
            std=std,
            crop_fraction=crop_fraction,
            raw_pixels=raw_pixels,
            device=device,
            autocast_dtype=autocast_dtype,
        )
        for loader in (train_loader, test_loader)
    )
    num_train, num_test = train_loader.source.num_rows, test_loader.source.num_rows
    report(f"features of {num_train} + {num_test} images in {time.perf_counter() - start:.1f} s")

    results, knn_results, classifiers, weight_decays, learning_rates = [], [], {}, {}, {}
    for name in list(train):
        # Popped, so that each encoder's features are freed when the next one's turn comes.
        fitted, measured = train.pop(name), test.pop(name)
        features, labels = fitted.features, fitted.labels
        missing = num_classes - len(labels.unique())
        if missing:
            raise ValueError(
                f"The {num_train} training images hold no image of {missing} of the {num_classes} classes; "
                "fit to more of them, or to a split that is not sorted by class."
            )
        step_start = time.perf_counter()
        probe = fit_linear_probe(features, labels, num_classes, arguments, device=device)
        with torch.inference_mode():
            scores = probe(measured.features)
        row = {
            "encoder": name,
            "classifier": "linear_probe",
            **compute_metrics(scores, measured.labels),
            "feature_dim": features.shape[1],
        }
        chosen = f"weight decay {probe.weight_decay:.2g}"
        if probe.learning_rate is not None:
            chosen = f"learning rate {probe.learning_rate:.2g}, {chosen}"
        report(
            f"{name}: accuracy {row['accuracy']:.1%}, macro F1 {row['macro_f1']:.3f} ({chosen}, "
            f"fitted to {features.shape[1]} features in "
            f"{time.perf_counter() - step_start:.1f} s)"
        )
        results.append(row)
        weight_decays[name], learning_rates[name] = probe.weight_decay, probe.learning_rate
        if name in encoders:
            classifiers[name] = probe.folded()
        if knn_k is not None:
            step_start = time.perf_counter()
            shares = knn_scores(
                features, labels, measured.features, num_classes, k=knn_k, temperature=knn_temperature, device=device
            )
            metrics = compute_metrics(shares, measured.labels, votes=True)
            knn_results.append({**row, "classifier": "knn", **metrics})
            report(
                f"{name}: kNN accuracy {metrics['accuracy']:.1%}, macro F1 {metrics['macro_f1']:.3f} (in "
                f"{time.perf_counter() - step_start:.1f} s)"
            )
    return EncoderEvaluation(
        results=[*results, *knn_results],
        protocol={
            **dataclasses.asdict(arguments),
            "chosen_weight_decay": weight_decays,
            **({"chosen_learning_rate": learning_rates} if len(arguments.learning_rates) > 1 else {}),
        },
        classifiers=classifiers,
        num_train=num_train,
        num_test=num_test,
        wall_time_s=time.perf_counter() - start,
    )
