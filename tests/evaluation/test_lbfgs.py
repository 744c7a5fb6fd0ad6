import itertools

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from hf_ssl.evaluation import lbfgs
from hf_ssl.evaluation.lbfgs import minimize_lbfgs

NUM_CLASSES, WEIGHT_DECAY = 7, 1e-3


@pytest.fixture(scope="module")
def problem():
    """Correlated features with a mean, as encoders give them, and labels that they tell something about."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(20, 20, generator=generator) * torch.logspace(0, -2, 20)
    inputs = torch.randn(300, 20, generator=generator) @ mixing.T + 0.5
    noisy = inputs @ torch.randn(20, NUM_CLASSES, generator=generator) + 3 * torch.randn(
        300, NUM_CLASSES, generator=generator
    )
    return inputs, noisy.argmax(dim=1), torch.cov(inputs.T, correction=0)


def loss(classifier, inputs, labels):
    scores = functional.linear(inputs.double(), classifier.weight.double(), classifier.bias.double())
    penalty = WEIGHT_DECAY / 2 * classifier.weight.double().square().sum()
    return (functional.cross_entropy(scores, labels) + penalty).item()


def zero_layer():
    layer = nn.Linear(20, NUM_CLASSES)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return layer


def solve(problem, inputs=None, layer=None, **options):
    layer = layer or zero_layer()
    data, labels, covariance = problem
    options = {"max_iterations": 1000, "tolerance": 1e-9, **options}
    minimize_lbfgs(layer, data if inputs is None else inputs, labels, WEIGHT_DECAY, covariance, **options)
    return layer


@pytest.fixture(scope="module")
def reference(problem):
    """scikit-learn's by Newton's method in float64; its objective is C · sum of cross-entropies + |W|² / 2."""
    inputs, labels, _ = problem
    found = LogisticRegression(C=1 / (WEIGHT_DECAY * len(labels)), solver="newton-cholesky", tol=1e-10, max_iter=1000)
    found.fit(inputs.double().numpy(), labels.numpy())
    layer = nn.Linear(20, NUM_CLASSES, dtype=torch.float64)
    layer.load_state_dict({"weight": torch.from_numpy(found.coef_), "bias": torch.from_numpy(found.intercept_)})
    return layer


def test_it_is_the_optimum(problem, reference):
    inputs, labels, _ = problem
    layer = solve(problem)
    assert abs(loss(layer, inputs, labels) - loss(reference, inputs, labels)) < 1e-6
    torch.testing.assert_close(
        layer(inputs).softmax(dim=1).double(), reference(inputs.double()).softmax(dim=1), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 3e-5])
def test_the_tolerance_is_that_of_the_loss_but_for_a_factor(problem, reference, tolerance):
    inputs, labels, _ = problem
    excess = loss(solve(problem, tolerance=tolerance), inputs, labels) - loss(reference, inputs, labels)
    assert excess < 20 * tolerance


def test_bfloat16_products_reach_the_rough_optimum(problem, reference):
    inputs, labels, _ = problem
    layer = solve(problem, inputs.bfloat16(), tolerance=1e-3)
    assert loss(layer, inputs, labels) - loss(reference, inputs, labels) < 1e-2
    assert layer.weight.dtype == torch.float32


def test_a_wrong_covariance_costs_time_alone(problem, reference):
    inputs, labels, _ = problem
    layer = solve((inputs, labels, 100 * torch.eye(20)))
    assert abs(loss(layer, inputs, labels) - loss(reference, inputs, labels)) < 1e-5


def test_an_optimum_stays(problem):
    layer = solve(problem)
    before = layer.weight.clone()
    solve(problem, layer=layer, tolerance=1e-4)
    torch.testing.assert_close(layer.weight, before, rtol=0, atol=1e-6)


def test_the_objective_never_rises_and_a_step_is_two_products(problem, monkeypatch):
    inputs, labels, _ = problem
    losses = [loss(solve(problem, max_iterations=count), inputs, labels) for count in range(1, 12)]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    lengths, search = [], lbfgs._search_line
    monkeypatch.setattr(lbfgs, "_search_line", lambda *given: lengths.append(search(*given)[0]) or search(*given))
    solve(problem)
    assert all(length > 0 for length in lengths) and len(lengths) > 3
