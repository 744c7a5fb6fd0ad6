import pytest
import torch
from timm.optim import Lars
from torch import nn

from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.stochastic import learning_rate_factor, train_stochastic

NUM_CLASSES = 5
ARGUMENTS = {"learning_rate": 0.1, "weight_decay": 0.0, "batch_size": 64, "epochs": 4, "schedule": "cosine"}


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (150,), generator=generator)
    return torch.randn(NUM_CLASSES, 12, generator=generator)[labels] + torch.randn(
        150, 12, generator=generator
    ), labels


def train_with_torch(inputs, labels, arguments):
    """The loop of one classifier as anyone would write it, with torch's SGD and timm's LARS."""
    generator = torch.Generator().manual_seed(arguments.seed)
    layer = nn.Linear(12, NUM_CLASSES)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    groups = [
        {"params": [layer.weight], "weight_decay": arguments.weight_decay, "always_adapt": True},
        {"params": [layer.bias], "weight_decay": 0.0, "always_adapt": False},
    ]
    optimizer = torch.optim.SGD if arguments.solver == "sgd" else Lars
    if optimizer is torch.optim.SGD:
        groups = [{key: value for key, value in group.items() if key != "always_adapt"} for group in groups]
    optimizer = optimizer(groups, lr=arguments.learning_rate, momentum=arguments.momentum)
    step, per_epoch = 0, -(-len(inputs) // arguments.batch_size)
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(arguments.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = arguments.learning_rate * learning_rate_factor(step / per_epoch, arguments)
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(inputs[rows]), labels[rows]).backward()
            optimizer.step()
            step += 1
    return layer


SETTINGS = {
    "sgd": [(0.5, 0.0), (0.05, 1e-2), (1e-3, 0.3)],
    "lars": [(6.4, 0.0), (20.0, 1e-2), (1.0, 0.3)],
}


@pytest.mark.parametrize("solver", SETTINGS)
@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_each_member_of_a_grid_is_what_it_would_be_alone(data, solver, warmup_epochs):
    arguments = {**ARGUMENTS, "solver": solver, "warmup_epochs": warmup_epochs}
    grid = ProbeArguments(**arguments)
    weights, biases = train_stochastic(*data, NUM_CLASSES, SETTINGS[solver], grid)
    assert weights.shape == (3, NUM_CLASSES, 12) and biases.shape == (3, NUM_CLASSES)
    for index, (rate, decay) in enumerate(SETTINGS[solver]):
        alone = train_stochastic(*data, NUM_CLASSES, [(rate, decay)], grid)
        one = ProbeArguments(**{**arguments, "learning_rate": rate, "weight_decay": decay})
        expected = train_with_torch(*data, one)
        for weight, bias in ((weights[index], biases[index]), (alone[0][0], alone[1][0])):
            torch.testing.assert_close(weight, expected.weight.data, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(bias, expected.bias.data, rtol=1e-4, atol=1e-5)
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_a_member_that_diverges_leaves_the_others_alone(data):
    grid = ProbeArguments(**ARGUMENTS, solver="sgd")
    weights, _ = train_stochastic(*data, NUM_CLASSES, [(1e9, 1e9), (0.1, 0.0)], grid)
    alone, _ = train_stochastic(*data, NUM_CLASSES, [(0.1, 0.0)], grid)
    assert not weights[0].isfinite().all()
    torch.testing.assert_close(weights[1], alone[0], rtol=1e-4, atol=1e-5)


def test_lars_is_that_of_mae(data):
    # facebookresearch/mae, util/lars.py: trust ratio 0.001 |w| / |g| for weights and none for biases.
    inputs, labels = data[0][:64], data[1][:64]
    arguments = ProbeArguments(
        solver="lars", weight_decay=0.0, learning_rate=6.4, epochs=5, batch_size=64, schedule="constant"
    )
    weights, biases = train_stochastic(inputs, labels, NUM_CLASSES, [(1e-30, 0.0), (6.4, 0.0)], arguments)
    layer = nn.Linear(12, NUM_CLASSES)
    with torch.no_grad():
        layer.weight.copy_(weights[0])
        layer.bias.copy_(biases[0])
    parameters = [layer.weight, layer.bias]
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(5):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(layer(inputs), labels), parameters)
        with torch.no_grad():
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                trust = 0.001 * parameter.norm() / gradient.norm() if parameter.ndim > 1 else 1.0
                momentum.mul_(0.9).add_(gradient * trust)
                parameter.sub_(6.4 * momentum)
    torch.testing.assert_close(weights[1], layer.weight.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(biases[1], layer.bias.data, rtol=1e-4, atol=1e-5)


def test_learning_rates_over_the_epochs():
    shared = {"solver": "sgd", "weight_decay": 0.0, "learning_rate": 1.0, "epochs": 90, "batch_size": 1}
    cosine = ProbeArguments(**shared, schedule="cosine", warmup_epochs=10)
    rates = [learning_rate_factor(epoch, cosine) for epoch in (0, 2.5, 10, 50, 90)]
    assert rates == pytest.approx([0, 0.25, 1, 0.5, 0])
    step = ProbeArguments(**shared, schedule="step", milestones=[60, 80])
    assert [learning_rate_factor(epoch, step) for epoch in (0, 59.9, 60, 80)] == pytest.approx([1, 1, 0.1, 0.01])
    constant = ProbeArguments(**shared, schedule="constant")
    assert [learning_rate_factor(epoch, constant) for epoch in (0, 89)] == [1, 1]
