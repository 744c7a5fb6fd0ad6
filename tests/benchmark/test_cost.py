"""The page of costs: counts, the arithmetic's limits, and tables made from the committed results."""

from pathlib import Path

import pytest

from hf_ssl.benchmark import cost
from hf_ssl.benchmark.results import read_results

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("method", cost.METHODS, ids=lambda method: method.title)
def test_one_gpu_communicates_nothing_and_more_never_help_more_than_in_proportion(method):
    work = cost.Work(parameters=10**8, norms=50, flops=1.0)
    alone = cost.step_on(method, work, 1)
    assert alone.hidden == alone.exposed == alone.compute == cost.GLOBAL_BATCH / method.goal_rate
    for gpus in (8, 64):
        step = cost.step_on(method, work, gpus)
        assert step.compute * gpus == pytest.approx(alone.compute)
        assert step.compute < step.hidden <= step.exposed


def test_an_all_reduce_inside_a_node_is_a_ring_s():
    inside = cost.all_reduce_seconds(8e9, 8) - cost.LATENCY_S
    assert inside == pytest.approx(2 * 7e9 / cost.BANDWIDTH_IN_NODE)
    assert cost.all_reduce_seconds(8e9, 16) - cost.LATENCY_S == pytest.approx(inside + 1e9 / cost.BANDWIDTH_BETWEEN)


def test_operations_grow_with_what_is_counted():
    standard, light = (cost.count_work(method) for method in cost.METHODS[1:])
    assert light.flops < standard.flops and light.parameters < standard.parameters
    assert standard.norms == 0


def test_durations_have_units():
    assert [cost.duration(seconds) for seconds in (60, 3600 * 5, 86400 * 3, 3e8)] == [
        "1.00 min",
        "5.00 h",
        "3.00 days",
        "9.51 years",
    ]


def test_a_rate_that_was_not_measured_is_said():
    assert "not measured" in cost.time_table({"rows": []})


def test_the_committed_tables_are_made_from_the_committed_results():
    text = (DOCS / "cost.md").read_text()
    assert text.count("<!-- cost: ") == 5
    assert cost.fill_cost(text, read_results(DOCS / "benchmarks" / "results.json")) == text
