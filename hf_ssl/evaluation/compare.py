"""`hf-ssl compare RUN RUN …`: the report's two tables, filled from results and configs.

The first compares what was measured, the second what the methods are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForPreTraining

import hf_ssl  # noqa: F401  registers the configs with CONFIG_MAPPING
from hf_ssl.augment import ViewPolicy
from hf_ssl.data.sources import is_local
from hf_ssl.evaluation.results import read_results, rows_by_encoder

ENCODERS = {"pretrained": "pretrained", "random": "random encoder", "raw_pixels": "raw pixels"}


def read_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of evaluated runs, or of repository folders.

    Raises:
        FileNotFoundError: if a folder holds no results.json.
        ValueError: if a run was not probed yet.
    """
    read = []
    for run in runs:
        if not (run / "results.json").is_file():
            raise FileNotFoundError(f"'{run}' holds no results.json; give folders of runs or of published models.")
        results = read_results(run / "results.json")
        if "evaluation" not in results:
            raise ValueError(f"'{run}' was not evaluated; run `hf-ssl evaluate {run}` first.")
        read.append(results)
    return read


def compare(runs: Sequence[dict[str, Any]]) -> str:
    """Both tables as Markdown that reads well in a terminal too."""
    return f"{results_table(runs)}\n\n{methods_table(runs)}"


def results_table(runs: Sequence[dict[str, Any]]) -> str:
    """Accuracy, top-5 accuracy and macro F1 of every run's encoders by linear probe, with 95 % intervals.

    If a run was evaluated by kNN too, a column has that accuracy.
    """
    with_knn = any("knn" in run["evaluation"] for run in runs)
    rows = []
    for run in runs:
        pretraining, evaluation = run["pretraining"], run["evaluation"]
        knn = rows_by_encoder(evaluation, "knn")
        for encoder, result in rows_by_encoder(evaluation).items():
            trained = encoder == "pretrained"
            row = [
                run["model"]["method"],
                run["model"]["backbone"] if encoder != "raw_pixels" else "–",
                ENCODERS[encoder],
                _percent(result["accuracy"], result["accuracy_ci95"]),
                f"{result['top5_accuracy']:.1%}",
                "{:.3f} [{:.3f}, {:.3f}]".format(result["macro_f1"], *result["macro_f1_ci95"]),
            ]
            if with_knn:
                neighbours = knn.get(encoder)
                row.append(_percent(neighbours["accuracy"], neighbours["accuracy_ci95"]) if neighbours else "–")
            row.append(f"{pretraining['images_seen']:,}" if trained else "–")
            row.append(format_duration(pretraining["wall_time_s"]) if trained else "–")
            rows.append(row)
    header = ["method", "backbone", "encoder", "accuracy", "top-5", "macro F1"]
    header += ["kNN accuracy"] * with_knn + ["images seen", "pretraining"]
    data = sorted(
        {
            f"{_data_name(run)} (fitted to {run['evaluation']['num_train']:,} images, measured on "
            f"{run['evaluation']['num_test']:,})"
            for run in runs
        }
    )
    title = f"Linear probe{_knn_protocol(runs)} on {' and '.join(data)}, 95 % intervals:"
    return f"{title}\n\n{format_table(header, rows)}"


def methods_table(runs: Sequence[dict[str, Any]]) -> str:
    """Architecture, pretraining type, augmentations, loss, complexity and use of each method."""
    columns = []
    for run in runs:
        description = CONFIG_MAPPING[run["model"]["model_type"]].description
        flops = forward_flops(run) / 1e9
        columns.append(
            {
                "": description.name,
                "architecture": f"{run['model']['backbone']}, {run['model']['encoder_parameters'] / 1e6:.1f} M "
                f"parameters ({run['model']['parameters'] / 1e6:.1f} M while pretraining)",
                "pretraining type": description.pretraining_type,
                "augmentations": "; ".join(describe_views(run["pretraining"]["arguments"]["views"])),
                "loss": f"{description.objective}; final value {run['pretraining']['final_loss']:.3f}",
                "complexity": f"{description.complexity}; {flops:.2f} GFLOP forward per image at "
                f"{run['model']['config']['image_size']} px",
                "representation is good for": description.representation,
                "paper": description.paper,
            }
        )
    header, *names = columns[0]
    return format_table(
        [header, *(column[""] for column in columns)], [[name, *(c[name] for c in columns)] for name in names]
    )


def forward_flops(run: dict[str, Any]) -> int:
    """Floating-point operations of a pretraining forward pass per image, counted on a pass over two images."""
    config = CONFIG_MAPPING[run["model"]["model_type"]].from_dict(run["model"]["config"])
    views, size, batch = len(run["pretraining"]["arguments"]["views"]), config.image_size, 2
    shape = (batch, 3, size, size) if views == 1 else (batch, views, 3, size, size)
    model = AutoModelForPreTraining.from_config(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return counter.get_total_flops() // batch


def describe_views(views: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each distinct view policy, such as "2 × crop 8–100 %, flip 0.5, jitter 0.8"."""
    policies = [ViewPolicy(**view) for view in views]
    lines = []
    for policy in dict.fromkeys(policies):
        parts = ["crop {:.0%} to {:.0%} of the area".format(*policy.crop_scale)]
        for name, probability in (
            ("flip", policy.flip_prob),
            ("colour jitter", policy.jitter_prob),
            ("greyscale", policy.grayscale_prob),
            ("blur", policy.blur_prob),
            ("solarise", policy.solarize_prob),
        ):
            if probability > 0:
                parts.append(f"{name} (p {probability:g})")
        lines.append(f"{policies.count(policy)} × {', '.join(parts)}")
    return lines


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    table = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _percent(share: float, interval: Sequence[float]) -> str:
    return f"{share:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def format_duration(seconds: float) -> str:
    """Seconds as "1 h 02 min" or "3 min 04 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _knn_protocol(runs: Sequence[dict[str, Any]]) -> str:
    protocols = [run["evaluation"]["knn"] for run in runs if "knn" in run["evaluation"]]
    named = ["k {k}, τ {temperature:g}".format(**protocol) for protocol in protocols]
    return f", and weighted kNN ({' or '.join(dict.fromkeys(named))}) on the same features," if named else ""


def _data_name(run: dict[str, Any]) -> str:
    """The dataset's id, or the name of its folder without the path."""
    evaluation = run["evaluation"]
    name = evaluation["dataset"]
    shown = Path(name).name if is_local(name, evaluation["revision"]) else name
    return f"{shown}, split {evaluation['split']}"
