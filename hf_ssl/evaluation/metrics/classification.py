"""Accuracy, top-5 accuracy and macro F1 as a module of the `evaluate` library, loaded by path, offline.

    metric = evaluate.load(str(path_of_this_file))
    metric.compute(predictions=scores, references=labels)

`evaluate` copies this file elsewhere before it imports it: it must stand alone, and its loader reads the
import lines itself, so each names one module.
"""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score

DESCRIPTION = "Accuracy, top-5 accuracy and macro F1 of a classifier, from its scores for every class."

INPUTS = """
Args:
    predictions: (N, C) scores, larger for likelier classes; logits or probabilities. C is the data set's
        number of classes, also of those that do not occur among the references.
    references: (N,) integer labels in [0, C).
    votes: whether the scores are votes, where a class with a score of 0 was not voted for and is no answer: it is
        never among the 5 highest, though there be fewer than 5 others. False if not given.
Returns:
    accuracy: share of images whose highest score is their label's; the lower class wins a tie.
    top5_accuracy: share of images whose label is among their 5 highest scores; the lower class wins a tie. 1.0 if C
        is at most 5 and the scores are no votes.
    macro_f1: mean of the C classes' F1 scores; 0 for a class that is neither predicted nor present.
"""


class Classification(evaluate.Metric):
    """Accuracy, top-5 accuracy and macro F1, each in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int], votes: bool = False) -> dict[str, float]:
        scores, labels = np.asarray(predictions, np.float32), np.asarray(references)
        if not np.isfinite(scores).all():
            raise ValueError("The predictions hold values that are not finite; give finite scores.")
        classes = np.arange(scores.shape[1])
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(
                f"The references range from {labels.min()} to {labels.max()}, but the predictions score "
                f"{len(classes)} classes; give labels from 0 to {len(classes) - 1}."
            )
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
        rank = ahead.sum(axis=1)
        among_first = (rank < 5) & ((own[:, 0] > 0) | (not votes))
        macro_f1 = f1_score(labels, scores.argmax(axis=1), labels=classes, average="macro", zero_division=0.0)
        return {
            "accuracy": float((rank == 0).mean()),
            "top5_accuracy": float(among_first.mean()),
            "macro_f1": float(macro_f1),
        }
