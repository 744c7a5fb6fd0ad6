"""A report of several runs as a folder: Markdown with the two tables of `compare`, and PNG pictures."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hf_ssl.evaluation.compare import ENCODERS, methods_table, read_runs, results_table
from hf_ssl.evaluation.results import rows_by_encoder


def write_report(runs: Sequence[Path], folder: Path, title: str, command: str, notes: str = "") -> Path:
    """Write `report.md`, its pictures and the results they are made from; earlier files are replaced.

    Args:
        runs: folders of evaluated runs.
        folder: where the report goes.
        title: heading of the report.
        command: what reproduces it.
        notes: Markdown at the report's end.

    Returns:
        The path of report.md.

    Raises:
        ValueError: if two runs share a name, or one was not probed.
        FileNotFoundError: if a folder holds no run.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"Two runs share a name ({', '.join(names)}); a report needs folders named differently.")
    results = read_runs(runs)
    folder.mkdir(parents=True, exist_ok=True)
    draw_accuracies(results, folder / "accuracy.png")
    draw_losses(results, folder / "loss.png")
    sections = [
        f"# {title}",
        f"Made by `{command}`.",
        results_table(results),
        "![Accuracy of each encoder with its 95 % interval](accuracy.png)",
        "## Pretraining loss",
        "![Pretraining loss of each run](loss.png)",
    ]
    for run, result in zip(runs, results, strict=True):
        (folder / run.name).mkdir(exist_ok=True)
        shutil.copyfile(run / "results.json", folder / run.name / "results.json")
        sections.append(f"## What {result['model']['method']} sees ([its results]({run.name}/results.json))")
        for picture in sorted((run / "pictures").glob("*.png")):
            name = f"{run.name}-{picture.name}"
            shutil.copyfile(picture, folder / name)
            sections.append(f"![{picture.stem} of {run.name}]({name})")
    sections += ["## The methods", methods_table(results), notes]
    path = folder / "report.md"
    path.write_text("\n\n".join(section for section in sections if section) + "\n")
    return path


def draw_accuracies(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bars of linear-probe accuracy with 95 % intervals: raw pixels, random encoder, pretrained encoder."""
    figure = Figure(figsize=(1.6 + 2.4 * len(results), 3.6), layout="constrained")
    axis = figure.subplots()
    shades = {"raw_pixels": "#c9ced6", "random": "#8fa3bf", "pretrained": "#d1603d"}
    chance = 1 / results[0]["evaluation"]["num_classes"]
    for group, result in enumerate(results):
        rows = rows_by_encoder(result["evaluation"])
        for position, (encoder, colour) in enumerate(shades.items()):
            if encoder not in rows:
                continue
            row = rows[encoder]
            low, high = row["accuracy_ci95"]
            place = group + (position - 1) * 0.27
            axis.bar(place, row["accuracy"], 0.25, color=colour, label=ENCODERS[encoder] if group == 0 else None)
            axis.errorbar(
                place, row["accuracy"], [[row["accuracy"] - low], [high - row["accuracy"]]], color="#333333", capsize=3
            )
            axis.text(place, high + 0.01, f"{row['accuracy']:.1%}", ha="center", fontsize=8)
    axis.axhline(chance, color="#333333", linewidth=0.8, linestyle=":", label="chance")
    axis.set_xticks(range(len(results)), [result["model"]["method"] for result in results])
    axis.set_ylabel("linear-probe accuracy")
    axis.set_ylim(0, min(1.12 * axis.get_ylim()[1], 1.1))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=130)


def draw_losses(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The loss curve of each run, each on an axis of its own as their objectives differ."""
    figure = Figure(figsize=(4.2 * len(results), 3), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, result in zip(axes, results, strict=True):
        steps, losses = zip(*result["pretraining"]["loss_curve"], strict=True)
        axis.plot(steps, losses, color="#d1603d")
        axis.set_title(f"{result['model']['method']}, {result['model']['backbone']}", fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
