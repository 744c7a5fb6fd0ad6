"""The command: names, JSON, what survives an interruption or a failed check, and the page."""

import json
import re
from pathlib import Path

import pytest

from hf_ssl import cli
from hf_ssl.benchmark import run
from hf_ssl.benchmark.curves import Curve, measure_curve
from hf_ssl.benchmark.measuring import (
    CheckFailedError,
    Comparison,
    Experiment,
    NotMeasuredError,
    Options,
    Row,
    Side,
    require_memory,
)
from hf_ssl.benchmark.page import page
from hf_ssl.benchmark.results import read_results, write_results
from hf_ssl.benchmark.table import describe_figure, describe_quantity


def reading(name, value):
    return Side(name, "fp32", lambda: value, gives_reading=True)


def fast(options):
    yield Experiment(
        "small",
        (reading("hf_ssl", 0.5), reading("peer", 2.0)),
        (Comparison("hf_ssl fp32", "peer fp32", goal=3.0), Comparison("hf_ssl fp32", figure="rate")),
        lambda: "loss to 1e-7 (tolerance 1e-5)",
        images=8,
    )


def wrong(options):
    def check():
        raise CheckFailedError("loss: differs by 0.5 relative to the peer's (tolerance 1e-05)")

    yield Experiment("small", (reading("hf_ssl", 1.0),), (Comparison("hf_ssl fp32", figure="value"),), check)


def interrupted(options):
    yield from fast(options)
    raise KeyboardInterrupt


def growing(options):
    for batch in (8, 16, 32):
        yield "hf_ssl bf16", batch, 100.0 * batch


@pytest.fixture
def fake_rows(monkeypatch):
    """Rows C1 (fast), C5 (fast) and G1 (wrong), and the curve "simclr-batch"."""

    def use(*rows):
        monkeypatch.setattr(run, "ROWS", rows)
        monkeypatch.setattr(run, "CURVES", (Curve("simclr-batch", "A curve", "batch", "images/s", growing),))

    use(Row("C1", "loader", "loading", fast), Row("C5", "loss", "losing", fast), Row("G1", "gpu", "going", wrong))
    return use


def test_names_are_rows_subjects_and_curves(fake_rows):
    def selected(*names, **kwargs):
        return [part.name for parts in run.select(names, **kwargs) for part in parts]

    assert selected() == ["C1", "C5", "G1"]
    assert selected(with_curves=True) == ["C1", "C5", "G1", "simclr-batch"]
    assert selected("loss", "c1") == ["C1", "C5"]
    assert selected("curves") == selected("simclr-batch") == ["simclr-batch"]


@pytest.mark.parametrize(("name", "near"), [("C55", "C5"), ("los", "loss"), ("G11", "G1"), ("curve", "curves")])
def test_an_unknown_name_is_a_usage_error_that_names_the_nearest(name, near, fake_rows, capsys):
    assert cli.main(["benchmark", name]) == 2
    assert f"no row, subject or curve '{name}'; did you mean '{near}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["--repeats", "0"], 2, "--repeats is 0; take at least 1 reading"),
        (["--dataset", "nowhere"], 1, "--dataset 'nowhere' does not exist"),
    ],
)
def test_wrong_arguments_are_said(argv, status, message, capsys):
    assert cli.main(["benchmark", *argv]) == status
    assert message in capsys.readouterr().err


def test_the_table_is_for_people_and_the_json_for_programs(fake_rows, tmp_path, capsys):
    path = tmp_path / "new" / "results.json"
    assert cli.main(["benchmark", "C5", "--repeats", "3", "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert (
        "| C5 " in printed.out and "4.00×" in printed.out and "goal reached" in printed.out and "16.0/s" in printed.out
    )
    assert "C5 small: measuring hf_ssl fp32, peer fp32" in printed.err
    results = read_results(path)
    assert results["version"] == 1 and results["command"] == f"hf-ssl benchmark C5 --repeats 3 --json {path}"
    (comparison, _) = results["rows"][0]["experiments"][0]["comparisons"]
    assert comparison["value"] == 4.0 and comparison["verdict"] == "goal"
    assert results["rows"][0]["experiments"][0]["sides"][0]["readings"] == [0.5] * 3
    write_results(tmp_path / "again.json", results)
    assert (tmp_path / "again.json").read_text() == path.read_text()


def test_json_that_is_no_benchmark_is_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"version": 2}))
    with pytest.raises(ValueError, match="is no benchmark of version 1"):
        read_results(path)


def test_a_failed_check_is_shown_and_is_an_exit_status(fake_rows, tmp_path, capsys):
    path = tmp_path / "results.json"
    assert cli.main(["benchmark", "--json", str(path)]) == 1
    printed = capsys.readouterr()
    assert "- G1, going: **check failed**: loss: differs by 0.5" in printed.out
    assert "G1 failed" in printed.err.splitlines()[-1]
    assert [row["status"] for row in read_results(path)["rows"]] == ["measured", "measured", "check failed"]


def test_ctrl_c_keeps_what_was_measured(fake_rows, tmp_path, capsys):
    fake_rows(
        Row("C1", "loader", "loading", fast), Row("C5", "loss", "losing", interrupted), Row("C7", "x", "y", fast)
    )
    path = tmp_path / "results.json"
    assert cli.main(["benchmark", "--json", str(path)]) == 130
    printed = capsys.readouterr()
    assert printed.out.count("4.00×") == 2
    assert "1 rows or curves were not begun" in printed.err
    assert [row["status"] for row in read_results(path)["rows"]] == ["measured", "interrupted"]


def test_one_command_writes_page_json_and_pictures(fake_rows, tmp_path, capsys):
    fake_rows(Row("C1", "loader", "loading", fast))
    assert cli.main(["benchmark", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "benchmarks.md").read_text()
    assert f"hf-ssl benchmark --output {tmp_path}" in text and "loss to 1e-7" in text
    for _, address in re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", text):
        assert (tmp_path / address).is_file()
    assert (tmp_path / "benchmarks" / "simclr-batch.png").stat().st_size < 60_000
    assert text == page(read_results(tmp_path / "benchmarks" / "results.json"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (NotMeasuredError("no cores"), "not measured"),
        (OSError(), "failed"),
    ],
)
def test_a_curve_keeps_the_points_it_has(error, status):
    def points(options):
        yield "hf_ssl", 8, 1.0
        raise error

    record = measure_curve(Curve("simclr-batch", "A curve", "x", "y", points), Options())
    assert record["status"] == status and record["series"] == {"hf_ssl": [[8, 1.0]]}


def test_a_peer_that_would_not_fit_is_not_started():
    require_memory(0.001)
    with pytest.raises(NotMeasuredError, match="needs 1e\\+06 GiB of free memory"):
        require_memory(1e6)


def test_the_committed_page_is_made_from_the_committed_results():
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "benchmarks.md").read_text() == page(read_results(docs / "benchmarks" / "results.json"))


def test_numbers_are_shown_with_their_units():
    assert describe_quantity(0.0123, "seconds") == "12.3 ms"
    assert describe_quantity(1.234, "seconds") == "1.23 s"
    assert describe_quantity(2e-5, "seconds") == "20.0 µs"
    assert describe_quantity(3 * 2**30, "bytes") == "3.00 GiB"
    assert describe_quantity(5 * 2**20, "bytes") == "5.00 MiB"
    assert describe_figure("share", 0.021, "bytes") == "2.1 %"
    assert describe_figure("rate", 12345.6, "seconds") == "12,346/s"
