"""The results as a table for people, one line for each comparison."""

from collections.abc import Mapping
from typing import Any

from hf_ssl.evaluation.compare import format_table

HEADER = ("row", "measure", "ours", "peer", "figure", "goal", "stretch", "verdict")
VERDICTS = {"stretch": "stretch goal reached", "goal": "goal reached", "short": "**short of the goal**", None: "–"}


def results_table(results: Mapping[str, Any]) -> str:
    """The measured rows as a table, and below it the rows that were not measured, each with its reason."""
    lines, reasons = [], []
    for row in results["rows"]:
        for experiment in row["experiments"]:
            lines += [_line(results, row, experiment, comparison) for comparison in experiment["comparisons"]]
        if row["status"] != "measured":
            reasons.append(f"- {row['name']}, {row['measure']}: **{row['status']}**: {row['reason']}")
    parts = []
    if lines:
        parts.append(format_table(HEADER, lines))
    if reasons:
        parts.append("\n".join(reasons))
    return "\n\n".join(parts) or "Nothing was measured."


def checks_list(results: Mapping[str, Any]) -> str:
    """What was found equal before anything was timed."""
    return "\n".join(
        f"- {row['name']}, {experiment['label']}: {experiment['check']}"
        for row in results["rows"]
        for experiment in row["experiments"]
        if experiment["check"]
    )


def curve_tables(results: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """Each curve with its points as a table."""
    tables = []
    for curve in results["curves"]:
        xs = sorted({point[0] for points in curve["series"].values() for point in points})
        values = {label: dict(map(tuple, points)) for label, points in curve["series"].items()}
        header = (curve["x"], *(f"{label}: {curve['y']}" for label in values))
        rows = [(f"{x:,g}", *(number(series[x]) if x in series else "–" for series in values.values())) for x in xs]
        tables.append((curve, format_table(header, rows) if rows else f"{curve['status']}: {curve['reason']}"))
    return tables


def _line(
    results: Mapping[str, Any], row: Mapping[str, Any], experiment: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[str]:
    sides = {side["key"]: side for side in experiment["sides"]}
    figure = comparison["figure"]
    ours, peer = sides[comparison["ours"]], sides.get(comparison["peer"])

    def target(value: float | None) -> str:
        return "–" if value is None else describe_figure(figure, value, experiment["quantity"])

    verdict = VERDICTS[comparison["verdict"]]
    if comparison["verdict"] is None and peer is not None:
        verdict = "same precision" if ours["precision"] == peer["precision"] else "for information"
    measure = [row["measure"], experiment["label"]]
    if experiment["threads"] != results["threads"]:
        measure.append(f"torch threads: {experiment['threads']}")
    return [
        row["name"],
        ", ".join(filter(None, measure)),
        _side(ours, experiment, results["repeats"]),
        "–" if peer is None else _side(peer, experiment, results["repeats"]),
        describe_figure(figure, comparison["value"], experiment["quantity"]),
        target(comparison["goal"]),
        target(comparison["stretch"]),
        verdict,
    ]


def _side(side: Mapping[str, Any], experiment: Mapping[str, Any], repeats: int) -> str:
    quantity = experiment["quantity"]
    text = f"{side['key']} {describe_quantity(side['median'], quantity)}"
    if len(side["readings"]) > 1:
        text += f" ({describe_quantity(side['low'], quantity)} to {describe_quantity(side['high'], quantity)})"
    if len(side["readings"]) != repeats:
        text += f" [n = {len(side['readings'])}]"
    if experiment["images"] and quantity == "seconds":
        text += f", {number(experiment['images'] / side['median'])}/s"
    return text


def describe_figure(figure: str, value: float, quantity: str) -> str:
    """A comparison's value or goal as it is shown: 8.3×, 2.1 %, 0.12 s, 3,500/s."""
    if figure == "speedup":
        return f"{value:.2f}×"
    if figure == "share":
        return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"
    if figure == "rate":
        return f"{number(value)}/s"
    return describe_quantity(value, quantity)


def describe_quantity(value: float, quantity: str) -> str:
    """Seconds as s, ms or µs; bytes as GiB or MiB."""
    if quantity == "bytes":
        return f"{number(value / 2**30)} GiB" if value >= 2**30 else f"{number(value / 2**20)} MiB"
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{number(value * factor)} {unit}"
    return f"{number(value * 1e6)} µs"


def number(value: float) -> str:
    """Three significant digits without an exponent, thousands set apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"
