"""How costs grow: images/s with the batch and with processes, the loss's memory with the batch, the probe's time."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from hf_ssl import MAEConfig, SimCLRConfig
from hf_ssl.benchmark.measuring import (
    Clock,
    NotMeasuredError,
    Options,
    Side,
    alternate,
    reader,
    require_memory,
    require_package,
)
from hf_ssl.benchmark.memory import peak_extra_memory
from hf_ssl.benchmark.pairs.mae import mae_input, mae_pair, mae_step
from hf_ssl.benchmark.pairs.simclr import simclr_input, simclr_pair, simclr_step
from hf_ssl.benchmark.rows.loss import PEER_GIBIBYTES, memory_call
from hf_ssl.evaluation.linear_probe import fit_linear_probe

CURVES_NAME = "curves"
REPEATS = 5
COLOURS = ("#d1603d", "#3d7ea6", "#7a9e3d", "#8d6a9f")


@dataclass(frozen=True)
class Curve:
    """A cost that grows.

    Args:
        name: what it is selected by, and its picture's name.
        title: heading of the picture.
        x: what is along the axis, with its unit.
        y: likewise.
        points: measures and gives one (series, x, y) after the other.
        log_y: whether the y axis is logarithmic; the x axis always is.
    """

    name: str
    title: str
    x: str
    y: str
    points: Callable[[Options], Iterator[tuple[str, float, float]]]
    log_y: bool = False


def measure_curve(curve: Curve, options: Options, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure a curve: its part of the results, with the points that were finished whatever happens."""
    series: dict[str, list[list[float]]] = {}
    record = {
        "name": curve.name,
        "title": curve.title,
        "x": curve.x,
        "y": curve.y,
        "status": "measured",
        "reason": None,
        "series": series,
    }
    report(f"{curve.name}: measuring")
    try:
        for label, x, y in curve.points(options):
            series.setdefault(label, []).append([x, y])
            report(f"{curve.name}: {label}, {x:g}: {y:.4g}")
    except NotMeasuredError as error:
        record.update(status="not measured", reason=str(error))
    except KeyboardInterrupt:
        record.update(status="interrupted", reason="interrupted before it was finished")
    except Exception as error:
        report(traceback.format_exc())
        record.update(status="failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return record


def draw_curve(record: dict[str, Any], path: Path) -> None:
    """Draw the points of `measure_curve` as a PNG."""
    curve = next(curve for curve in CURVES if curve.name == record["name"])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    ticks = sorted({point[0] for points in record["series"].values() for point in points})
    for (label, points), colour in zip(record["series"].items(), COLOURS, strict=False):
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, marker="o", markersize=4, color=colour, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], fontsize=8)
    axis.minorticks_off()
    if curve.log_y:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_title(record["title"], fontsize=10)
    axis.set_xlabel(record["x"])
    axis.set_ylabel(record["y"])
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def _rates(sides: list[Side], images: int) -> Iterator[tuple[str, float, float]]:
    readings = alternate({side.key: reader(side, "cpu", Clock()) for side in sides}, REPEATS)
    for key, seconds in readings.items():
        yield key, images, images / statistics.median(seconds)


def _simclr_batches(options: Options) -> Iterator[tuple[str, float, float]]:
    require_package("lightly")
    config = SimCLRConfig(backbone="resnet18", image_size=64)
    ours, peer = simclr_pair(config)
    for batch in (8, 16, 32, 64, 128, 256):
        views = simclr_input(config, batch)
        yield from _rates(
            [
                Side("hf_ssl", "bf16", simclr_step(ours, views, "bf16")),
                Side("lightly style", "fp32", simclr_step(peer, views, "fp32")),
            ],
            batch,
        )


def _mae_batches(options: Options) -> Iterator[tuple[str, float, float]]:
    config = MAEConfig(
        backbone="vit_tiny_patch16_224",
        image_size=64,
        patch_size=8,
        decoder_hidden_size=128,
        decoder_num_layers=2,
        decoder_num_heads=4,
    )
    ours, peer = mae_pair(config)
    for batch in (8, 16, 32, 64, 128, 256):
        images, noise = mae_input(config, batch)
        yield from _rates(
            [
                Side("hf_ssl", "bf16", mae_step(ours, images, noise, "bf16")),
                Side("transformers", "fp32", mae_step(peer, images, noise, "fp32")),
            ],
            batch,
        )


def _loss_memory(options: Options) -> Iterator[tuple[str, float, float]]:
    require_package("lightly")
    require_memory(PEER_GIBIBYTES)
    for views in (1024, 2048, 4096, 8192, 16384, 32768):
        for side in ("hf_ssl", "lightly"):
            # lightly's 32,768 would take more than most machines have.
            if side == "hf_ssl" or views <= 16384:
                peak = peak_extra_memory(memory_call, (side, 64), (side, views))
                yield f"{side} fp32", views, max(peak, 1) / 2**20


def _probe_sizes(options: Options) -> Iterator[tuple[str, float, float]]:
    classes, width = 100, 512
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, width, generator=generator)
    for count in (1000, 2000, 4000, 8000, 16000, 32000):
        labels = torch.arange(count) % classes
        features = centres[labels] + 4 * torch.randn(count, width, generator=generator)
        fit = Side("hf_ssl", "", lambda features=features, labels=labels: fit_linear_probe(features, labels, classes))
        seconds = alternate({fit.key: reader(fit, "cpu", Clock())}, 3)[fit.key]
        yield "whole grid by L-BFGS", count, statistics.median(seconds)


def _processes(options: Options) -> Iterator[tuple[str, float, float]]:
    cores = torch.get_num_threads()
    if cores < 2:
        raise NotMeasuredError("needs two cores")
    total_batch = 256
    rates = {(processes, threads): 0.0 for processes, threads in ((1, 1), (2, 1), (1, cores), (2, cores // 2))}
    for processes, threads in rates:
        rates[processes, threads] = _pretraining_rate(processes, threads, total_batch)
    for processes in (1, 2):
        yield "one thread a process", processes, rates[processes, 1]
        yield "all cores", processes, rates[processes, cores // processes]


def _pretraining_rate(processes: int, threads: int, total_batch: int) -> float:
    """Images/s of `hf-ssl pretrain` in all processes together: the median of its log, the start left out."""
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        argv = ["-m", "hf_ssl.cli", "pretrain", "--config", "simclr_demo", "--output_dir", f"{folder}/run"]
        argv += ["--batch_size", str(total_batch // processes), "--max_steps", "36", "--logging_steps", "4"]
        argv += ["--num_threads", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        finished = subprocess.run([sys.executable, *launch, *argv], env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(f"{processes} processes ended with {finished.returncode}: {finished.stderr[-500:]}")
        lines = Path(folder, "run", "log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["images_per_second"] for line in lines]
    return statistics.median(rates[2:])


CURVES = (
    Curve(
        "simclr-batch",
        "SimCLR, ResNet-18 at 64 px, forward + backward",
        "batch (pairs)",
        "pairs/s",
        _simclr_batches,
    ),
    Curve("mae-batch", "MAE, ViT-Tiny at 64 px, forward + backward", "batch (images)", "images/s", _mae_batches),
    Curve(
        "loss-memory",
        "NT-Xent forward + backward, d = 128",
        "views 2N",
        "peak extra memory (MiB)",
        _loss_memory,
        log_y=True,
    ),
    Curve(
        "probe-time",
        "Linear probe on 512 features, 100 classes",
        "training images",
        "seconds",
        _probe_sizes,
        log_y=True,
    ),
    Curve(
        "processes",
        "Pretraining of simclr_demo with its loader, total batch 256",
        "processes (torchrun, gloo)",
        "images/s of all together",
        _processes,
    ),
)
