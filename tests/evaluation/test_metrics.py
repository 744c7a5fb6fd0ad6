import socket
import threading

import evaluate
import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from hf_ssl.evaluation.metrics.compute import CLASSIFICATION, compute_metrics
from hf_ssl.evaluation.metrics.intervals import macro_f1_interval, wilson_interval


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def scores_and_labels(num_rows, num_classes, num_present=None, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_present or num_classes, num_rows)
    scores = generator.normal(size=(num_rows, num_classes)).astype(np.float32)
    scores[np.arange(num_rows), labels] += 1.5
    return scores, labels


@pytest.mark.parametrize(("num_classes", "num_present"), [(20, 20), (20, 13), (6, 6), (3, 3), (2, 1)])
def test_the_module_agrees_with_scikit_learn(no_network, num_classes, num_present):
    scores, labels = scores_and_labels(150, num_classes, num_present)
    metric = evaluate.load(str(CLASSIFICATION), keep_in_memory=True)
    values = metric.compute(predictions=scores, references=labels)
    predicted, classes = scores.argmax(axis=1), np.arange(num_classes)
    macro_f1 = f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert values["macro_f1"] == pytest.approx(macro_f1)
    if num_classes > 5:
        assert values["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=classes))
    else:
        assert values["top5_accuracy"] == 1


def test_equal_scores_do_not_count_as_hits():
    metric = evaluate.load(str(CLASSIFICATION), keep_in_memory=True)
    values = metric.compute(predictions=np.zeros((20, 10)), references=np.arange(20) % 10)
    assert values["accuracy"] == 0.1
    assert values["top5_accuracy"] == 0.5


def test_a_class_without_votes_is_no_answer():
    """All neighbours in class 7: only an image of class 7 is found, though 4 of the top 5 places are free."""
    votes = torch.zeros(10, 10)
    votes[:, 7] = 1
    labels = torch.arange(10)
    values = compute_metrics(votes, labels, votes=True)
    assert values["top5_accuracy"] == values["accuracy"] == 0.1
    assert values["top5_accuracy_ci95"] == values["accuracy_ci95"]
    assert compute_metrics(votes, labels)["top5_accuracy"] == 0.5


def test_votes_for_every_class_count_like_other_scores():
    scores, labels = scores_and_labels(150, 9)
    shares, labels = torch.from_numpy(scores).softmax(dim=1), torch.from_numpy(labels)
    assert compute_metrics(shares, labels, votes=True) == compute_metrics(shares, labels)


def test_two_processes_score_like_one(no_network, tmp_path):
    scores, labels = scores_and_labels(41, 8)
    results = {}

    def score(process_id):
        metric = evaluate.load(
            str(CLASSIFICATION),
            num_process=2,
            process_id=process_id,
            experiment_id="two",
            cache_dir=str(tmp_path),
        )
        for start in range(0, 41, 8):
            rows = slice(start + process_id, start + 8, 2)
            metric.add_batch(predictions=scores[rows], references=labels[rows])
        results[process_id] = metric.compute()

    threads = [threading.Thread(target=score, args=(process_id,)) for process_id in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = evaluate.load(str(CLASSIFICATION), keep_in_memory=True).compute(predictions=scores, references=labels)
    assert results[0] == pytest.approx(alone)
    assert results[1] is None


def test_scores_that_are_not_finite_are_refused():
    scores = torch.zeros(4, 3)
    scores[1, 2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        compute_metrics(scores, torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((3, 2), [0, 1, 2], "range from 0 to 2"),
        ((3, 2), [0, 1], r"\(3, 2\)"),
        ((0, 2), [], "at least 1 image"),
    ],
)
def test_data_that_do_not_fit_are_refused(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(torch.zeros(shape), torch.tensor(labels, dtype=torch.long))


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (3, 10), (1, 5000), (1910, 5000)])
def test_wilsons_interval_is_scipys(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("proportion", "count"), [(1.1, 10), (0.5, 0)])
def test_a_proportion_without_an_interval_is_refused(proportion, count):
    with pytest.raises(ValueError, match="has no interval"):
        wilson_interval(proportion, count)


def test_the_interval_of_macro_f1_is_that_of_resampled_images():
    scores, labels = scores_and_labels(200, 4)
    predicted = scores.argmax(axis=1)
    generator = np.random.default_rng(1)
    rows_of_class = [np.flatnonzero(labels == label) for label in range(4)]
    resampled = []
    for _ in range(1500):
        rows = np.concatenate([generator.choice(rows, len(rows)) for rows in rows_of_class])
        resampled.append(f1_score(labels[rows], predicted[rows], average="macro"))
    expected = np.quantile(resampled, (0.025, 0.975))
    interval = macro_f1_interval(predicted, labels, 4, resamples=20_000)
    assert interval == pytest.approx(tuple(expected), abs=0.012)


def test_metrics_come_with_intervals_around_them():
    scores, labels = (torch.from_numpy(array) for array in scores_and_labels(500, 10, num_present=9))
    values = compute_metrics(scores, labels)
    for name in ("accuracy", "top5_accuracy", "macro_f1"):
        low, high = values[f"{name}_ci95"]
        assert 0 <= low < values[name] < high <= 1
    assert values == compute_metrics(scores, labels)
    assert all(type(value) in (float, list) for value in values.values())


def test_a_perfect_classifier_has_its_value_in_the_interval():
    labels = torch.arange(6).repeat(3)
    values = compute_metrics(torch.eye(6)[labels], labels)
    assert values["macro_f1"] == 1 and values["macro_f1_ci95"] == [1, 1]
    assert values["accuracy_ci95"][1] == 1 and values["accuracy_ci95"][0] < 1
