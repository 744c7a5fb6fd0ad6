"""What results.json says of a classifier: accuracy, top-5 accuracy and macro F1, with 95 % intervals."""

from pathlib import Path

import evaluate
import torch

from hf_ssl.evaluation.metrics.intervals import macro_f1_interval, wilson_interval

CLASSIFICATION = Path(__file__).with_name("classification.py")


def compute_metrics(
    scores: torch.Tensor, labels: torch.Tensor, *, votes: bool = False, seed: int = 0
) -> dict[str, float | list[float]]:
    """Score a classifier on the test images.

    Args:
        scores: float (N, C), larger for likelier classes.
        labels: int64 (N,), in [0, C).
        votes: whether the scores are votes: then a class with a score of 0 is not among the top 5.
        seed: seed of the bootstrap behind the interval of macro F1.

    Returns:
        `accuracy`, `top5_accuracy` and `macro_f1` in [0, 1], and `accuracy_ci95`, `top5_accuracy_ci95`
        (Wilson) and `macro_f1_ci95` (bootstrap), each [low, high].

    Raises:
        ValueError: shapes that do not match, no image, labels outside [0, C), scores that are not finite.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            f"scores has shape {tuple(scores.shape)} and labels {tuple(labels.shape)}; give (N, C) and (N,) "
            "for at least 1 image."
        )
    scores, labels = scores.float().cpu().numpy(), labels.cpu().numpy()
    metric = evaluate.load(str(CLASSIFICATION), keep_in_memory=True)
    values = metric.compute(predictions=scores, references=labels, votes=votes)
    intervals = {
        "accuracy_ci95": wilson_interval(values["accuracy"], len(labels)),
        "top5_accuracy_ci95": wilson_interval(values["top5_accuracy"], len(labels)),
        "macro_f1_ci95": macro_f1_interval(scores.argmax(axis=1), labels, scores.shape[1], seed=seed),
    }
    return {**values, **{name: list(interval) for name, interval in intervals.items()}}
