import numpy as np
import pytest
import torch

from hf_ssl.evaluation.knn import knn_scores


def clusters(num_train=90, num_test=40, num_features=12, num_classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_classes, num_features, generator=generator)

    def draw(count):
        labels = torch.randint(num_classes, (count,), generator=generator)
        return centers[labels] + torch.randn(count, num_features, generator=generator), labels

    (train, train_labels), (test, _) = draw(num_train), draw(num_test)
    return train, train_labels, test, num_classes


def reference(train, labels, test, num_classes, k, temperature):
    """The definition, one test image after the other; `sorted` is stable, so the first of equals come first."""
    train, test = train.double().numpy(), test.double().numpy()
    scores = np.zeros((len(test), num_classes))
    for row, query in enumerate(test):
        cosines = [key @ query / np.linalg.norm(key) / np.linalg.norm(query) for key in train]
        for neighbour in sorted(range(len(train)), key=lambda index: -cosines[index])[:k]:
            scores[row, labels[neighbour]] += np.exp(cosines[neighbour] / temperature)
    return torch.from_numpy(scores / scores.sum(axis=1, keepdims=True)).float()


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (90, 0.02)])
def test_the_scores_are_those_of_the_definition(k, temperature):
    data = clusters()
    scores = knn_scores(*data, k=k, temperature=temperature)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, reference(*data, k, temperature), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk_size", [1, 7, 19, 40, 89])
def test_the_chunks_do_not_change_a_bit(chunk_size):
    train, labels, test, num_classes = clusters()
    train = torch.cat([train, train[:30], train[:50]])  # copies, between which the order has to decide
    labels = torch.cat([labels, labels.flip(0)[:80]])
    whole = knn_scores(train, labels, test, num_classes, k=5)
    assert torch.equal(knn_scores(train, labels, test, num_classes, k=5, chunk_size=chunk_size), whole)


def test_an_image_is_its_own_nearest_neighbour():
    train, labels, _, num_classes = clusters()
    assert torch.equal(knn_scores(train, labels, train, num_classes, k=1).argmax(dim=1), labels)


def test_the_length_of_features_does_not_count():
    train, labels, test, num_classes = clusters()
    scores = knn_scores(train, labels, test, num_classes)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(-60, 60, (len(train), 1), generator=generator)
    assert torch.equal(knn_scores(train * 2.0**lengths, labels, test * 1024, num_classes), scores)
    torch.testing.assert_close(knn_scores(train * 1e30, labels, test * 3e-30, num_classes), scores)


def test_of_equally_similar_images_the_first_vote():
    train = torch.tensor([[1.0, 2.0]]).repeat(6, 1)
    train[1] *= 3
    labels = torch.tensor([2, 0, 0, 1, 1, 1])
    scores = knn_scores(train, labels, torch.tensor([[2.0, 1.0], [-1.0, -2.0]]), 4, k=3)
    torch.testing.assert_close(scores, torch.tensor([[2 / 3, 0, 1 / 3, 0]] * 2))


def test_a_collapsed_encoder_gets_the_votes_of_the_first_images():
    labels = torch.tensor([0, 1, 1, 2])
    for constant in (0.0, 1.0):
        scores = knn_scores(torch.full((4, 3), constant), labels, torch.full((2, 3), constant), 3, k=3)
        torch.testing.assert_close(scores, torch.tensor([[1 / 3, 2 / 3, 0]] * 2))


def test_the_temperature_goes_from_the_nearest_alone_to_equal_votes():
    train, labels, test, num_classes = clusters()
    nearest = knn_scores(train, labels, test, num_classes, k=1)
    torch.testing.assert_close(knn_scores(train, labels, test, num_classes, k=9, temperature=1e-7), nearest)
    counts = knn_scores(train, labels, test, num_classes, k=9, temperature=1e9) * 9
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-5)


def test_the_order_of_different_images_does_not_count():
    train, labels, test, num_classes = clusters()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(2))
    scores = knn_scores(train, labels, test, num_classes)
    torch.testing.assert_close(knn_scores(train[order], labels[order], test, num_classes), scores)
    assert torch.equal(knn_scores(train, labels, test.flip(0), num_classes).flip(0), scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 91}, r"91 neighbours cannot be taken from 90 training images; choose a k \(--knn_k\) from 1 to 90"),
        ({"k": 0}, "0 neighbours cannot be taken"),
        ({"temperature": 0.0}, "temperature of kNN is 0.0; choose a finite one"),
        ({"temperature": float("nan")}, "temperature of kNN is nan"),
        ({"temperature": float("inf")}, "temperature of kNN is inf"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"num_classes": 6}, "labels range from 0 to 6, but there are 6 classes"),
        ({"train_labels": torch.full((90,), -1)}, "range from -1 to -1"),
        ({"train_labels": torch.zeros(89, dtype=torch.int64)}, r"shapes \(90, 12\), \(89,\) and \(40, 12\)"),
        ({"test_features": torch.zeros(40, 11)}, r"and \(40, 11\); give"),
        ({"test_features": torch.zeros(0, 12)}, "at least 1 image each"),
        ({"test_features": torch.full((1, 12), torch.inf)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(changes, message):
    names = ("train_features", "train_labels", "test_features", "num_classes")
    with pytest.raises(ValueError, match=message) as error:
        knn_scores(**{**dict(zip(names, clusters(), strict=True)), **changes})
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
