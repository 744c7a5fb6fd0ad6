"""`hf-ssl benchmark`: select rows, measure them, keep what was measured whatever happens."""

import difflib
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hf_ssl.benchmark.curves import CURVES, CURVES_NAME, Curve, measure_curve
from hf_ssl.benchmark.measuring import Options, Row, measure_row
from hf_ssl.benchmark.page import write_page
from hf_ssl.benchmark.results import FORMAT_VERSION, write_results
from hf_ssl.benchmark.rows import ROWS
from hf_ssl.benchmark.table import curve_tables, results_table
from hf_ssl.errors import UsageError
from hf_ssl.training.environment import describe_hardware, describe_versions

PEERS = ("lightly", "albumentations", "kornia", "opencv-python-headless", "pillow")


class FailedRowsError(ValueError):
    """Rows whose check failed or that broke, after everything was printed and written."""


def benchmark(
    names: Sequence[str],
    options: Options,
    command: str,
    *,
    json_path: Path | None = None,
    output: Path | None = None,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Measure rows and curves, print the tables, and write them.

    Args:
        names: rows ("C5"), subjects ("loss"), curves or "curves"; none are all rows, and with `output` all curves.
        options: what the user sets.
        command: the command line, for the record.
        json_path: file for the results.
        output: folder for documentation: benchmarks.md, benchmarks/results.json and benchmarks/*.png; a cost.md that
            is there has its tables made anew.
        report: takes lines of progress.

    Returns:
        The results, as `results.schema.json` describes them.

    Raises:
        UsageError: for an unknown name.
        FailedRowsError: if a check failed or a row broke, after all else was measured and written.
        KeyboardInterrupt: after what was finished was printed and written.
    """
    rows, curves = select(names, with_curves=output is not None)
    start = time.perf_counter()
    results = {
        "version": FORMAT_VERSION,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "versions": {**describe_versions(), **_peer_versions()},
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "repeats": options.repeats,
        "rows": [],
        "curves": [],
    }
    interrupted = False
    try:
        for row in rows:
            results["rows"].append(measure_row(row, options, report))
            interrupted = results["rows"][-1]["status"] == "interrupted"
            if interrupted:
                break
            report(
                f"{row.name}: {results['rows'][-1]['status']} ({time.perf_counter() - start:.0f} s since the start)"
            )
        for curve in curves if not interrupted else []:
            results["curves"].append(measure_curve(curve, options, report))
            interrupted = results["curves"][-1]["status"] == "interrupted"
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    results["seconds"] = round(time.perf_counter() - start, 1)
    if results["rows"]:
        print(results_table(results))
    for curve, table in curve_tables(results):
        print(f"\n{curve['title']}\n\n{table}")
    if json_path is not None:
        write_results(json_path, results)
    if output is not None:
        write_page(results, output)
    if interrupted:
        left = len(rows) + len(curves) - len(results["rows"]) - len(results["curves"])
        raise KeyboardInterrupt(f"Interrupted; what was measured is above, {left} rows or curves were not begun.")
    failed = [part["name"] for part in results["rows"] + results["curves"] if "failed" in part["status"]]
    if failed:
        raise FailedRowsError(f"{', '.join(failed)} failed; the reasons stand below the table.")
    return results


def select(names: Sequence[str], with_curves: bool = False) -> tuple[list[Row], list[Curve]]:
    """The rows and curves that names stand for, in the order of the goals.

    Raises:
        UsageError: for an unknown name, naming the nearest.
    """
    if not names:
        return list(ROWS), list(CURVES) if with_curves else []
    known = [*(row.name for row in ROWS), *dict.fromkeys(row.subject for row in ROWS)]
    known += [CURVES_NAME, *(curve.name for curve in CURVES)]
    by_lower = {name.lower(): name for name in known}
    wanted = set()
    for name in names:
        if name.lower() not in by_lower:
            near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0)
            raise UsageError(
                f"There is no row, subject or curve '{name}'; did you mean '{by_lower[near[0]]}'? There are "
                f"{', '.join(known)}."
            )
        wanted.add(by_lower[name.lower()])
    rows = [row for row in ROWS if wanted & {row.name, row.subject}]
    return rows, [curve for curve in CURVES if wanted & {CURVES_NAME, curve.name}]


def _peer_versions() -> dict[str, str]:
    versions = {}
    for package in PEERS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
