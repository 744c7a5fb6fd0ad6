"""Weighted k-nearest-neighbour classifier on the features of a frozen encoder.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4, with
k = 20 and τ = 0.07 as in DINO (Caron et al. 2021, `eval_knn.py`). Nothing is fitted, and nothing is chosen on the test
images: the k most similar training images vote for their classes, each with weight exp(cosine / τ).
"""

import torch
from torch.nn import functional

K, TEMPERATURE = 20, 0.07

# Normalised features are rounded to multiples of 2⁻²⁵. In these units they are whole numbers, and so are their
# products, which add up to less than 2⁵³: in float64 the sum is exact, in any order. So neither the chunks nor the
# threads nor the device decide between neighbours, and copies of an image are exactly as similar.
UNITS = 2.0**25


@torch.no_grad()
def knn_scores(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    test_features: torch.Tensor,
    num_classes: int,
    *,
    k: int = K,
    temperature: float = TEMPERATURE,
    chunk_size: int = 4096,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The share of the votes that each class gets from the k nearest training images.

    Of training images that are equally similar the first ones count. A row of zeros has similarity 0 to all others.

    Args:
        train_features: float32 (N, D) on the CPU, of any length.
        train_labels: int64 (N,) on the CPU, in [0, num_classes).
        test_features: float32 (M, D) on the CPU.
        num_classes: number of classes C of the data set.
        k: number of neighbours, from 1 to N.
        temperature: τ, above 0; the smaller, the more the nearest of them count.
        chunk_size: rows of each side that are compared at once, which takes a few times 8 · chunk_size² bytes; it does
            not change the scores.
        device: where to compare; it needs float64.

    Returns:
        float32 (M, C) on the CPU; the rows add up to 1, and a class without a neighbour has 0.

    Raises:
        ValueError: shapes that do not match, labels outside the classes, features that are not finite, or k,
            temperature or chunk_size out of range.
    """
    _check_data(train_features, train_labels, test_features, num_classes)
    check_neighbours(k, temperature, len(train_labels))
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; choose a value of at least 1.")
    scores = []
    for queries in test_features.split(chunk_size):
        similarities, neighbours = _nearest(_normalize(queries.to(device)), train_features, k, chunk_size)
        # A softmax is the weights divided by their sum, safe for any temperature.
        weights = functional.softmax(similarities / temperature, dim=1)
        shares = weights.new_zeros(len(queries), num_classes)
        scores.append(shares.scatter_add_(1, train_labels[neighbours], weights).float())
    return torch.cat(scores)


def check_neighbours(k: int, temperature: float, num_train: int) -> None:
    """Raise a `ValueError` unless k neighbours can be found among the training images and weighted."""
    if not 1 <= k <= num_train:
        raise ValueError(
            f"{k} neighbours cannot be taken from {num_train} training images; choose a k (--knn_k) from 1 to "
            f"{num_train}."
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"The temperature of kNN is {temperature}; choose a finite one (--knn_temperature) above 0, such as "
            f"{TEMPERATURE}."
        )


def _nearest(
    queries: torch.Tensor, train_features: torch.Tensor, k: int, chunk_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines float64 (M, k) and row numbers (M, k), on the CPU, of the nearest rows, in the order of the rows."""
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty_like(best, dtype=torch.int64)
    for start in range(0, len(train_features), chunk_size):
        keys = _normalize(train_features[start : start + chunk_size].to(queries.device))
        similarities = queries @ keys.T
        columns = _largest(similarities, k)
        best = torch.cat([best, similarities.gather(1, columns)], dim=1)
        rows = torch.cat([rows, start + columns], dim=1)
        columns = _largest(best, k)
        best, rows = best.gather(1, columns), rows.gather(1, columns)
    return best.cpu() / UNITS**2, rows.cpu()


def _normalize(features: torch.Tensor) -> torch.Tensor:
    """Rows of length 1 in units of 1 / UNITS, whole numbers in float64."""
    return functional.normalize(features.double(), dim=1, eps=1e-300).mul_(UNITS).round_()


def _largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of each row's k largest values, ascending; of equal values the first columns."""
    if values.shape[1] <= k:
        return torch.arange(values.shape[1], device=values.device).expand(values.shape)
    largest, columns = values.topk(k + 1)
    columns, threshold = columns[:, :k].sort(dim=1).values, largest[:, k - 1 : k]
    # Which of several columns with the k-th largest value come out of topk is left to chance.
    tied = (threshold == largest[:, k:]).squeeze(1)
    if tied.any():
        values, threshold = values[tied], threshold[tied]
        above, equal = values > threshold, values == threshold
        room = k - above.sum(dim=1, keepdim=True)
        columns[tied] = (above | (equal & (equal.cumsum(dim=1) <= room))).nonzero()[:, 1].view(-1, k)
    return columns


def _check_data(
    train_features: torch.Tensor, train_labels: torch.Tensor, test_features: torch.Tensor, num_classes: int
) -> None:
    shapes = train_features.shape, train_labels.shape, test_features.shape
    fits = [len(shape) for shape in shapes] == [2, 1, 2] and 0 not in (len(train_labels), len(test_features))
    if not fits or len(train_features) != len(train_labels) or train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            "train_features, train_labels and test_features have the shapes {}, {} and {}; give (N, D), (N,) and "
            "(M, D) with at least 1 image each.".format(*map(tuple, shapes))
        )
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise ValueError(
            f"The labels range from {train_labels.min()} to {train_labels.max()}, but there are {num_classes} "
            f"classes; give labels from 0 to {num_classes - 1} (-1 stands for a data set without labels)."
        )
    if not (train_features.isfinite().all() and test_features.isfinite().all()):
        raise ValueError("The features hold values that are not finite; check the encoder, or extract in float32.")
