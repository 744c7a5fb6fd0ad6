"""The results as documentation: benchmarks.md, with results.json and the pictures of the curves in a folder beside it.

The tables of a cost.md that is there are made anew too, as its measured rates come from the results.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ssl.benchmark.cost import fill_cost
from hf_ssl.benchmark.curves import draw_curve
from hf_ssl.benchmark.results import write_results
from hf_ssl.benchmark.table import checks_list, curve_tables, results_table
from hf_ssl.evaluation.compare import format_duration

PAGE, COST, FOLDER, RESULTS = "benchmarks.md", "cost.md", "benchmarks", "results.json"


def write_page(results: Mapping[str, Any], folder: Path) -> None:
    """Write benchmarks.md, benchmarks/results.json and a picture for each curve in `folder`, and fill its cost.md."""
    write_results(folder / FOLDER / RESULTS, results)
    for curve in results["curves"]:
        if curve["series"]:
            draw_curve(curve, folder / FOLDER / f"{curve['name']}.png")
    (folder / PAGE).write_text(page(results), encoding="utf-8")
    cost = folder / COST
    if cost.is_file():
        cost.write_text(fill_cost(cost.read_text(encoding="utf-8"), results), encoding="utf-8")


def page(results: Mapping[str, Any]) -> str:
    """benchmarks.md, Markdown, made of nothing but the results."""
    hardware = results["hardware"]
    versions = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    sections = [
        "# Benchmarks",
        "Made by this command; do not edit.",
        f"```bash\n{results['command']}\n```",
        f"{results['date']}, in {format_duration(results['seconds'])}, on {hardware['cpu']}, {hardware['cpu_cores']} "
        f"cores, torch threads on both sides: {results['threads']}; load of the machine as it began: "
        f"{results['load']:.1f}; accelerator: {'none' if hardware['device'] == 'cpu' else hardware['device']}. "
        f"{versions}.",
        f"Both sides take turns in one process; a number is the median of {results['repeats']} readings (or of n) "
        "after a warm-up, with the smallest and the largest. A figure with × is how many times faster ours is; with "
        "%, the share of the peer's that ours takes. The rows are those of the project's goals. Before anything is "
        "timed, both sides must be found to compute the same thing (below); a row whose check fails has no times. All "
        "numbers, each reading among them, are in "
        f"[{FOLDER}/{RESULTS}]({FOLDER}/{RESULTS}).",
        results_table(results),
        "## What was checked before",
        checks_list(results) or "Nothing.",
    ]
    if results["curves"]:
        sections.append("## As work grows")
    for curve, table in curve_tables(results):
        sections.append(f"### {curve['title']}")
        if curve["series"]:
            sections.append(f"![{curve['y']} against {curve['x']}]({FOLDER}/{curve['name']}.png)")
        sections.append(table)
    return "\n\n".join(sections) + "\n"
