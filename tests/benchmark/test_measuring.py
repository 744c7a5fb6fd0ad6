"""The measuring core: turns, medians, checks before times, and rows that end otherwise."""

import pytest
import torch

from hf_ssl.benchmark.checks import check_close, check_gradients, check_statistics
from hf_ssl.benchmark.measuring import (
    CheckFailedError,
    Clock,
    Comparison,
    Experiment,
    NotMeasuredError,
    Options,
    Row,
    Side,
    alternate,
    compare,
    measure_row,
)


class FakeTime:
    """A clock that stands still but for what calls add."""

    def __init__(self):
        self.time = 0.0
        self.calls = []

    def clock(self):
        return Clock(now=lambda: self.time, synchronize=lambda: self.calls.append("wait"))

    def call(self, name, durations):
        """A call that takes one duration after the other, the last for ever."""
        left = list(durations)

        def run():
            self.calls.append(name)
            self.time += left.pop(0) if len(left) > 1 else left[0]

        return run


def row_of(*experiments):
    def build(options):
        for experiment in experiments:
            if isinstance(experiment, BaseException):
                raise experiment
            yield experiment

    return Row("C5", "loss", "something", build)


def experiment_of(ours, peer, check=lambda: "equal", **kwargs):
    return Experiment(
        "small",
        (Side("hf_ssl", "fp32", ours), Side("peer", "fp32", peer)),
        (Comparison("hf_ssl fp32", "peer fp32", goal=2.0, stretch=4.0),),
        check,
        **kwargs,
    )


def test_sides_take_turns_and_the_order_turns_round():
    seen = []
    readers = {name: lambda name=name: seen.append(name) or len(seen) for name in "ab"}
    assert alternate(readers, 3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert seen == ["a", "b", "b", "a", "a", "b"]


def test_medians_leave_the_warm_up_and_outliers_out():
    time = FakeTime()
    ours = time.call("ours", [50.0, 1.0, 1.0, 30.0, 1.0, 1.0])
    peer = time.call("peer", [50.0, 3.0, 3.0, 3.0, 90.0, 3.0])
    record = measure_row(row_of(experiment_of(ours, peer)), Options(repeats=5), clock=time.clock())
    (experiment,) = record["experiments"]
    sides = {side["key"]: side for side in experiment["sides"]}
    assert record["status"] == "measured"
    assert sides["hf_ssl fp32"]["readings"] == [1.0, 1.0, 30.0, 1.0, 1.0]
    assert (sides["peer fp32"]["median"], sides["peer fp32"]["low"], sides["peer fp32"]["high"]) == (3.0, 3.0, 90.0)
    (comparison,) = experiment["comparisons"]
    assert comparison["value"] == 3.0 and comparison["verdict"] == "goal"


def test_a_reading_of_short_calls_is_the_mean_of_many():
    time = FakeTime()
    ours, peer = time.call("ours", [0.01]), time.call("peer", [0.5])
    record = measure_row(row_of(experiment_of(ours, peer)), Options(repeats=5), clock=time.clock())
    assert record["experiments"][0]["sides"][0]["median"] == pytest.approx(0.01)
    assert time.calls.count("ours") == 2 + 5 * 20
    assert time.calls.count("peer") == 2 + 5 * 1


def test_readings_on_a_gpu_wait_for_it_at_both_ends():
    time = FakeTime()
    ours, peer = time.call("ours", [3.0]), time.call("peer", [3.0])
    measure_row(row_of(experiment_of(ours, peer, device="cuda")), Options(repeats=1), clock=time.clock())
    assert time.calls == ["wait", "ours", "wait", "wait", "peer", "wait"] * 2


def test_the_check_comes_first_and_a_failed_one_leaves_no_times():
    time = FakeTime()

    def check():
        return check_close("loss", torch.tensor(1.0), torch.tensor(1.1), 1e-3)

    good = experiment_of(time.call("ours", [1.0]), time.call("peer", [1.0]))
    bad = experiment_of(time.call("bad ours", [1.0]), time.call("bad peer", [1.0]), check)
    record = measure_row(row_of(good, bad), Options(repeats=2), clock=time.clock())
    assert record["status"] == "check failed"
    assert "loss: differs by 0.091" in record["reason"]
    assert len(record["experiments"]) == 1 and record["experiments"][0]["check"] == "equal"
    assert "bad ours" not in time.calls and "bad peer" not in time.calls


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (NotMeasuredError("needs a CUDA GPU"), "not measured", "needs a CUDA GPU"),
        (KeyboardInterrupt(), "interrupted", "interrupted before it was finished"),
        (TypeError("odd"), "failed", "TypeError: odd"),
    ],
)
def test_a_row_that_ends_otherwise_keeps_what_it_had(error, status, reason):
    time, lines = FakeTime(), []
    experiment = experiment_of(time.call("ours", [1.0]), time.call("peer", [1.0]))
    record = measure_row(row_of(experiment, error), Options(repeats=2), lines.append, time.clock())
    assert (record["status"], record["reason"], len(record["experiments"])) == (status, reason, 1)
    assert any("Traceback" in line for line in lines) == (status == "failed")


@pytest.mark.parametrize(
    ("figure", "value", "verdict"),
    [("speedup", 4.0, "stretch"), ("share", 0.25, "stretch"), ("value", 2.0, "goal"), ("rate", 50.0, "short")],
)
def test_figures_are_judged_in_their_direction(figure, value, verdict):
    goals = {"speedup": (2, 4), "share": (0.5, 0.25), "value": (2.0, 1.0), "rate": (51, 60)}[figure]
    peer = "peer" if figure in ("speedup", "share") else None
    record = compare(Comparison("ours", peer, figure, *goals), {"ours": 2.0, "peer": 8.0}, 100)
    assert record["value"] == value and record["verdict"] == verdict
    assert compare(Comparison("ours", peer, figure), {"ours": 2.0, "peer": 8.0}, 100)["verdict"] is None


def test_a_side_may_give_its_reading_itself():
    experiment = Experiment(
        "",
        (Side("hf_ssl", "", lambda: 7, gives_reading=True),),
        (Comparison("hf_ssl", figure="value", goal=8),),
        None,
        quantity="bytes",
        repeats=2,
    )
    record = measure_row(row_of(experiment), Options(repeats=5))
    assert record["experiments"][0]["sides"][0]["readings"] == [7.0, 7.0]


def test_checks_say_what_differs():
    ones = torch.ones(3)
    assert "loss to" in check_close("loss", ones, ones + 1e-8, 1e-6)
    with pytest.raises(CheckFailedError, match=r"shape \(3,\), the peer's \(2,\)"):
        check_close("loss", ones, torch.ones(2), 1)
    with pytest.raises(CheckFailedError, match="differs by nan"):
        check_close("loss", ones * float("nan"), ones, 1)
    with pytest.raises(CheckFailedError, match="'b' is on one side alone"):
        check_gradients({"a": ones}, {"a": ones, "b": ones}, 1)
    with pytest.raises(CheckFailedError, match="gradient: differs by"):
        check_gradients({"a": ones, "b": -ones}, {"a": ones, "b": ones}, 1e-3)
    with pytest.raises(CheckFailedError, match="std is"):
        check_statistics("views", torch.randn(1000, 3), 2 * torch.randn(1000, 3), 0.3)
    assert "mean" in check_statistics("views", torch.randn(4000, 3), torch.randn(2000, 3), 0.1)
