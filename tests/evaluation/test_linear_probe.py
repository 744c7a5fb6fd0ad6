import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hf_ssl.evaluation.linear_probe import LinearProbe, fit_linear_probe
from hf_ssl.evaluation.probe_arguments import ProbeArguments


def gaussian_classes(num_rows, num_features=12, num_classes=5, spread=1.5, seed=0):
    """Overlapping classes around random centres; features of very different means and scales."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_classes, num_features, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    features = centers[labels] + spread * torch.randn(num_rows, num_features, generator=generator)
    scale = torch.logspace(-2, 2, num_features)
    return features * scale + 3 * scale, labels


def numpy_standardised(features):
    exact = features.double().numpy()
    return (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + 1e-6)


@pytest.mark.parametrize("weight_decay", [0.1, 0.003])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_lbfgs_gives_scikit_learns_logistic_regression(weight_decay, batch_norm):
    features, labels = gaussian_classes(400)
    if not batch_norm:
        features = torch.from_numpy(numpy_standardised(features)).float() + 0.5
    arguments = ProbeArguments(batch_norm=batch_norm, weight_decay=weight_decay)
    probe = fit_linear_probe(features, labels, 5, arguments)

    inputs = numpy_standardised(features) if batch_norm else features.double().numpy()
    # scikit-learn's objective: C · sum of cross-entropies + |W|² / 2.
    reference = LogisticRegression(C=1 / (weight_decay * len(labels)), tol=1e-8, max_iter=5000).fit(inputs, labels)
    losses = [
        np.mean(-np.log(probabilities[np.arange(len(labels)), labels])) + weight_decay / 2 * (weight**2).sum()
        for probabilities, weight in (
            (probe(features).double().softmax(dim=1).numpy(), probe.classifier.weight.double().numpy()),
            (reference.predict_proba(inputs), reference.coef_),
        )
    ]
    assert -1e-6 < losses[0] - losses[1] < 3e-4
    probabilities = probe(features).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, reference.predict_proba(inputs), atol=0.03)


def test_batch_norm_holds_the_statistics_of_all_training_features():
    features, labels = gaussian_classes(333)
    probe = fit_linear_probe(features, labels, 5, ProbeArguments(weight_decay=0.1))
    exact = features.double().numpy()
    np.testing.assert_allclose(probe.norm.running_mean.numpy(), exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(probe.norm.running_var.numpy(), exact.var(axis=0), rtol=1e-6)
    assert not probe.training


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_folded_layer_is_the_probe(batch_norm):
    features, labels = gaussian_classes(300)
    features = features / 10
    probe = fit_linear_probe(features, labels, 5, ProbeArguments(batch_norm=batch_norm, weight_decay=0.01))
    unseen, _ = gaussian_classes(50, seed=1)
    torch.testing.assert_close(probe.folded()(unseen / 10), probe(unseen / 10), rtol=1e-5, atol=1e-5)


def test_with_batch_norm_units_of_the_features_do_not_matter():
    features, labels = gaussian_classes(300)
    arguments = ProbeArguments(weight_decay=0.01)
    scores = fit_linear_probe(features, labels, 5, arguments)(features)
    scaled = fit_linear_probe(features * 100 - 7, labels, 5, arguments)(features * 100 - 7)
    torch.testing.assert_close(scaled, scores, rtol=1e-2, atol=1e-2)


def test_a_constant_feature_gets_no_weight():
    features, labels = gaussian_classes(300)
    features[:, 3] = 0.7
    probe = fit_linear_probe(features, labels, 5)
    assert probe.classifier.weight[:, 3].abs().max() < 1e-4
    assert probe(features).isfinite().all()


def test_the_same_arguments_give_the_same_probe_with_the_chosen_weight_decay_given_or_not():
    features, labels = gaussian_classes(300)
    first, second = fit_linear_probe(features, labels, 5), fit_linear_probe(features, labels, 5)
    given = fit_linear_probe(features, labels, 5, ProbeArguments(weight_decay=first.weight_decay))
    for other in (second, given):
        assert other.weight_decay == first.weight_decay
        assert torch.equal(other.classifier.weight, first.classifier.weight)
        assert torch.equal(other.classifier.bias, first.classifier.bias)


@pytest.mark.parametrize(("num_train", "num_features"), [(1000, 400), (1000, 30)])
def test_the_chosen_weight_decay_serves_unseen_data(num_train, num_features):
    # 10 features tell something. Beside 390 others they need a strong penalty, beside 20 a weak one.
    num_rows, num_informative = num_train + 3000, 10
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (num_rows,), generator=generator)
    centers = torch.zeros(8, num_features)
    centers[:, :num_informative] = 0.8 * torch.randn(8, num_informative, generator=generator)
    features = centers[labels] + torch.randn(num_rows, num_features, generator=generator)

    def unseen_accuracy(weight_decay):
        arguments = ProbeArguments(weight_decay=weight_decay)
        probe = fit_linear_probe(features[:num_train], labels[:num_train], 8, arguments)
        predicted = probe(features[num_train:]).argmax(dim=1)
        return (predicted == labels[num_train:]).float().mean().item()

    accuracies = [unseen_accuracy(weight_decay) for weight_decay in (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-5)]
    chosen = unseen_accuracy(None)
    assert chosen > min(accuracies) + 0.04
    assert chosen > max(accuracies) - 0.03


def test_the_choice_ignores_images_it_was_not_given():
    features, labels = gaussian_classes(400)
    before = fit_linear_probe(features[:300], labels[:300], 5).weight_decay
    features[300:], labels[300:] = 1e6, 0
    assert fit_linear_probe(features[:300], labels[:300], 5).weight_decay == before


def test_choosing_needs_images():
    features, labels = gaussian_classes(19)
    with pytest.raises(ValueError, match=r"19 training images are too few .* give one"):
        fit_linear_probe(features, labels, 5)
    assert fit_linear_probe(features, labels, 5, ProbeArguments(weight_decay=0.1)).weight_decay == 0.1


@pytest.mark.parametrize(
    "schedule", [{"schedule": "cosine", "warmup_epochs": 5}, {"schedule": "step", "milestones": [60, 80]}]
)
def test_sgd_reaches_the_optimum_of_lbfgs(schedule):
    features, labels = gaussian_classes(300)
    optimum = fit_linear_probe(features, labels, 5, ProbeArguments(weight_decay=0.05))
    arguments = ProbeArguments(
        solver="sgd", weight_decay=0.05, learning_rate=0.1, epochs=100, batch_size=100, **schedule
    )
    probe = fit_linear_probe(features, labels, 5, arguments)
    torch.testing.assert_close(probe(features).softmax(dim=1), optimum(features).softmax(dim=1), rtol=0, atol=0.01)
    assert torch.equal(fit_linear_probe(features, labels, 5, arguments).classifier.weight, probe.classifier.weight)


def test_an_unfitted_probe_has_no_opinion():
    assert torch.equal(LinearProbe(4, 3).eval()(torch.randn(2, 4)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, 3]), "labels range from 0 to 3, but there are 3 classes"),
        (torch.zeros(4, 2), torch.full((4,), -1), "labels range from -1 to -1"),
        (torch.full((4, 2), torch.nan), torch.zeros(4, dtype=torch.long), "not finite"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.long), r"\(4, 2\) and labels \(3,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "at least 1 image|for at least"),
    ],
)
def test_unusable_data_are_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_linear_probe(features, labels, 3, ProbeArguments(weight_decay=0.1))


def test_divergence_is_an_error():
    features, labels = gaussian_classes(100)
    arguments = ProbeArguments(
        solver="sgd", batch_norm=False, weight_decay=100.0, learning_rate=1e6, epochs=30, batch_size=10
    )
    with pytest.raises(FloatingPointError, match=r"diverged.*lower learning_rate"):
        fit_linear_probe(features, labels, 5, arguments)


SGD = {"solver": "sgd", "learning_rate": 1.0, "epochs": 100, "batch_size": 256, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "adam"}, "solver is adam; choose a value among lbfgs, sgd, lars"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1, but the solver lbfgs has none"),
        ({"milestones": [3]}, "the solver lbfgs has none"),
        ({**SGD, "learning_rate": None}, "learning_rate is missing for the solver sgd.*solo-learn"),
        ({**SGD, "solver": "lars", "batch_size": None}, "batch_size is missing for the solver lars.*MAE"),
        ({**SGD, "weight_decay": None}, "weight_decay is missing"),
        ({**SGD, "epochs": 0}, "epochs is 0"),
        ({**SGD, "warmup_epochs": 100}, "warmup_epochs is 100; choose a value from 0 to 99"),
        ({**SGD, "schedule": "linear"}, "schedule is linear"),
        ({**SGD, "schedule": "step"}, "give milestones"),
        ({**SGD, "milestones": [60]}, "with the schedule step"),
        ({**SGD, "schedule": "step", "milestones": [80, 60]}, "increasing epochs"),
        ({**SGD, "momentum": 1.0}, "momentum is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"weight_decay": [0.1, -1.0]}, r"weight_decay is \[0.1, -1.0\]"),
        ({**SGD, "learning_rate": [1.0, 0.0]}, r"learning_rate is \[1.0, 0.0\]; choose a value above 0"),
        ({**SGD, "weight_decay": []}, "weight_decay is an empty list"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProbeArguments(**arguments)


def test_one_number_may_come_as_a_list():
    grid = ProbeArguments(**{**SGD, "learning_rate": ["1e-1"], "weight_decay": [0.0]})
    assert grid == ProbeArguments(**{**SGD, "learning_rate": 0.1})


GRID = {"solver": "sgd", "epochs": 20, "batch_size": 50, "learning_rate": [1e-6, 0.1], "weight_decay": [30.0, 1e-3]}


def test_the_best_of_a_grid_is_fitted_to_all_training_images():
    features, labels = gaussian_classes(300)
    probe = fit_linear_probe(features, labels, 5, ProbeArguments(**GRID))
    assert (probe.learning_rate, probe.weight_decay) == (0.1, 1e-3)
    alone = fit_linear_probe(
        features, labels, 5, ProbeArguments(**{**GRID, "learning_rate": 0.1, "weight_decay": 1e-3})
    )
    assert torch.equal(alone.classifier.weight, probe.classifier.weight)


def test_a_pair_that_diverges_does_not_win_nor_harm_the_others():
    features, labels = gaussian_classes(300)
    arguments = ProbeArguments(**{**GRID, "learning_rate": [1e6, 0.1], "weight_decay": 100.0, "batch_norm": True})
    with pytest.raises(FloatingPointError):
        fit_linear_probe(features, labels, 5, ProbeArguments(**{**vars(arguments), "learning_rate": 1e6}))
    arguments = ProbeArguments(**{**GRID, "learning_rate": [1e6, 1e-3], "weight_decay": 100.0})
    assert fit_linear_probe(features, labels, 5, arguments).learning_rate == 1e-3


def test_lbfgs_chooses_among_the_weight_decays_given():
    features, labels = gaussian_classes(300)
    probe = fit_linear_probe(features, labels, 5, ProbeArguments(weight_decay=[1e-2, 1e3]))
    assert probe.weight_decay == pytest.approx(1e-2 * 270 / 300)


@pytest.mark.parametrize("solver", [{}, GRID])
def test_the_choice_needs_images_whatever_is_chosen(solver):
    features, labels = gaussian_classes(19)
    with pytest.raises(ValueError, match="19 training images are too few"):
        fit_linear_probe(features, labels, 5, ProbeArguments(**solver))
