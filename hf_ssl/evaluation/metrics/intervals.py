"""95 % confidence intervals of accuracies and of macro F1 over the choice of test images.

Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927, for proportions;
the percentile bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap", chapter 13) for macro F1.
"""

import math

import numpy as np

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson_interval(proportion: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion in [0, 1] that was observed on `count` images."""
    if count < 1 or not 0 <= proportion <= 1:
        raise ValueError(
            f"The proportion {proportion} of {count} images has no interval; give one in [0, 1] of at least 1 image."
        )
    spread = Z_95**2 / count
    center = (proportion + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (proportion * (1 - proportion) + spread / 4)) / (1 + spread)
    # At 0 and at 1 the ends are exact, but for rounding.
    low = 0.0 if proportion == 0 else max(0.0, center - half)
    high = 1.0 if proportion == 1 else min(1.0, center + half)
    return low, high


def macro_f1_interval(
    predicted: np.ndarray, labels: np.ndarray, num_classes: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap's 95 % percentile interval of macro F1.

    Test images are drawn with replacement among those of the same class: a validation set fixes how many
    images a class has, and no class can go missing from a resample. Drawing images amounts to drawing each
    row of the confusion matrix from a multinomial distribution.

    Args:
        predicted: integers (N,) in [0, num_classes).
        labels: integers (N,) in [0, num_classes).
        num_classes: number of classes that the mean is over.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
    """
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    confusion = cells.reshape(num_classes, num_classes)  # rows: labels; columns: predictions
    present = confusion.sum(axis=1)

    generator = np.random.default_rng(seed)
    correct = np.zeros((resamples, num_classes))
    predictions = np.zeros((resamples, num_classes))
    for label in np.flatnonzero(present):
        columns = np.flatnonzero(confusion[label])
        shares = confusion[label, columns] / present[label]
        drawn = generator.multinomial(present[label], shares, size=resamples)
        predictions[:, columns] += drawn
        correct[:, label] = drawn[:, columns == label].sum(axis=1)

    f1 = 2 * correct / np.maximum(predictions + present, 1)
    low, high = np.quantile(f1.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
