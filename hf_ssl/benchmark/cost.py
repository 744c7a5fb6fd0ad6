"""What a run on ImageNet-1k would cost, on two CPU cores, one GPU and 64: extrapolated, from inputs stated here.

The tables of docs/cost.md are made from this file and from docs/benchmarks/results.json; nobody types a number there.
The rates of a GPU are the project's goals, not measurements.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl import MAEConfig, MAEForPreTraining, SimCLRConfig, SimCLRForPreTraining
from hf_ssl.benchmark.rows.gpu import LIGHT_DECODER
from hf_ssl.benchmark.table import number
from hf_ssl.evaluation.compare import format_table

BLOCK = re.compile(r"(<!-- cost: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

IMAGES = 1_281_167
JPEG_BYTES = 110_000
STORED_SIDE = 256
GLOBAL_BATCH = 4096
GPUS = (1, 8, 64)
# Assumptions about the machines: GPUs of a node; what a GPU really sends to the others of its node and, through a
# network card of its own, to other nodes, in bytes per second; the latency of one small collective.
NODE = 8
BANDWIDTH_IN_NODE, BANDWIDTH_BETWEEN = 150e9, 25e9
LATENCY_S = 30e-6


@dataclass(frozen=True)
class Method:
    """A method as it is extrapolated.

    Args:
        title: what the tables call it.
        config: of the model.
        epochs: of its paper's long schedule on ImageNet-1k.
        goal: the row of the goals with its rate on a GPU, images (SimCLR: pairs) per second.
        goal_rate: that rate.
        measured: row, word of the experiment's label and side of the CPU's rate in the results; None if there is none.
    """

    title: str
    config: PreTrainedConfig
    epochs: int
    goal: str
    goal_rate: float
    measured: tuple[str, str, str] | None

    @property
    def is_contrastive(self) -> bool:
        """Whether views of all processes meet in the loss."""
        return isinstance(self.config, SimCLRConfig)

    def build(self) -> PreTrainedModel:
        """The pretraining model without its memory, on the meta device."""
        with torch.device("meta"):
            return (SimCLRForPreTraining if self.is_contrastive else MAEForPreTraining)(self.config)


METHODS = (
    Method("SimCLR, ResNet-50", SimCLRConfig(), 1000, "G1", 3500.0, ("C10", "224 px", "hf_ssl bf16")),
    Method("MAE, ViT-B, decoder 8×512", MAEConfig(), 800, "G4", 5500.0, ("C8", "batch", "hf_ssl bf16")),
    Method("MAE, ViT-B, decoder 4×256", MAEConfig(**LIGHT_DECODER), 800, "G5", 9500.0, None),
)


@dataclass(frozen=True)
class Work:
    """What a model takes for each image: parameters, and floating-point operations of forward and backward."""

    parameters: int
    norms: int
    flops: float


def count_work(method: Method) -> Work:
    """Count on the meta device; a product and its sum are two operations, the loss of SimCLR is left out."""
    batch = 2
    model = method.build().train()
    size = method.config.image_size
    with FlopCounterMode(display=False) as counter:
        if method.is_contrastive:
            views = torch.empty(2 * batch, 3, size, size, device="meta")
            model.projection_head(model.encoder(views)).sum().backward()
        else:
            noise = torch.empty(batch, method.config.num_patches, device="meta")
            model(torch.empty(batch, 3, size, size, device="meta"), noise=noise).loss.backward()
    return Work(
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        norms=sum(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()),
        flops=counter.get_total_flops() / batch,
    )


@dataclass(frozen=True)
class Step:
    """Seconds of one step on several GPUs, part by part."""

    compute: float
    all_reduce: float
    gather: float
    norms: float

    @property
    def hidden(self) -> float:
        """The whole step if the all-reduce of gradients hides behind the backward pass as far as it can.

        The backward is two thirds of the computing.
        """
        return self.compute + self.gather + self.norms + max(self.all_reduce - 2 / 3 * self.compute, 0.0)

    @property
    def exposed(self) -> float:
        """The whole step if nothing overlaps."""
        return self.compute + self.gather + self.norms + self.all_reduce


def all_reduce_seconds(size: float, gpus: int) -> float:
    """An all-reduce of so many bytes: inside each node, then of each GPU's share between nodes, and back."""
    if gpus == 1:
        return 0.0
    in_node, nodes = min(gpus, NODE), max(gpus // NODE, 1)
    inside = 2 * (in_node - 1) / in_node * size / BANDWIDTH_IN_NODE
    between = 2 * (nodes - 1) / nodes * size / in_node / BANDWIDTH_BETWEEN
    return inside + between + LATENCY_S


def step_on(method: Method, work: Work, gpus: int) -> Step:
    """A step of the global batch on several GPUs, each as fast as one alone.

    Gradients travel in float32. NT-Xent gathers 2·batch float32 projections, half an all-reduce, and all-reduces their
    gradient. Synchronised batch norms exchange kilobytes, in the forward and in the backward pass: they cost latency.
    """
    compute = GLOBAL_BATCH / gpus / method.goal_rate
    if gpus == 1:
        return Step(compute, 0.0, 0.0, 0.0)
    gather = 0.0
    if method.is_contrastive:
        gather = 1.5 * all_reduce_seconds(2 * GLOBAL_BATCH * method.config.projection_dim * 4, gpus)
    return Step(
        compute=compute,
        all_reduce=all_reduce_seconds(4 * work.parameters, gpus),
        gather=gather,
        norms=2 * work.norms * LATENCY_S,
    )


def measured_rate(results: Mapping[str, Any], method: Method) -> float | None:
    """Images/s of the method on this project's CPU, from the benchmark's results; None if they lack it."""
    if method.measured is None:
        return None
    name, label, key = method.measured
    for row in results["rows"]:
        for experiment in row["experiments"] if row["name"] == name else []:
            for side in experiment["sides"]:
                if label in experiment["label"] and side["key"] == key:
                    return experiment["images"] / side["median"]
    return None


def work_table() -> str:
    """Parameters and operations, by counting."""
    rows = []
    for method in METHODS:
        work = count_work(method)
        total = work.flops * IMAGES * method.epochs
        rows.append(
            (
                method.title,
                f"{work.parameters / 1e6:.1f} M",
                f"{work.flops / 1e9:.1f} GFLOP",
                f"{work.flops * IMAGES / 1e15:,.1f} PFLOP",
                f"{method.epochs}",
                f"{total / 1e18:,.1f} EFLOP",
            )
        )
    header = ("method", "trained parameters", "an image (SimCLR: a pair)", "an epoch", "epochs", "the schedule")
    return format_table(header, rows)


def time_table(results: Mapping[str, Any]) -> str:
    """Wall time of ImageNet-1k."""
    header = ["method", "two CPU cores, measured rate", "an epoch on them"]
    header += [f"schedule on {gpus} GPU{'s' if gpus > 1 else ''} at the goal's rate" for gpus in GPUS]
    rows = []
    for method in METHODS:
        work, rate = count_work(method), measured_rate(results, method)
        cells = [method.title]
        cells += ["not measured", "–"] if rate is None else [f"{number(rate)}/s", duration(IMAGES / rate)]
        for gpus in GPUS:
            step = step_on(method, work, gpus)
            steps = IMAGES // GLOBAL_BATCH * method.epochs
            low, high = duration(steps * step.hidden), duration(steps * step.exposed)
            cells.append(low if low == high else f"{low} to {high}")
        rows.append(cells)
    return format_table(header, rows)


def communication_table() -> str:
    """One step of the global batch on many GPUs."""
    header = ("method", "GPUs", "computing", "gradients", "NT-Xent's gather", "batch norms", "efficiency")
    rows = []
    for method in METHODS:
        work = count_work(method)
        for gpus in GPUS[1:]:
            step = step_on(method, work, gpus)
            rows.append(
                (
                    method.title,
                    f"{gpus}",
                    f"{1e3 * step.compute:.1f} ms",
                    f"{4 * work.parameters / 1e6:.0f} MB, {1e3 * step.all_reduce:.1f} ms",
                    f"{1e3 * step.gather:.2f} ms" if method.is_contrastive else "–",
                    f"{work.norms}, {1e3 * step.norms:.1f} ms" if work.norms else "–",
                    f"{step.compute / step.exposed:.0%} to {step.compute / step.hidden:.0%}",
                )
            )
    return format_table(header, rows)


def data_table() -> str:
    """What the computing above needs to be fed."""
    header = ("method", "GPUs", "images/s", "JPEG bytes read", "decoded once: memory of each node")
    stored = IMAGES * STORED_SIDE**2 * 3
    rows = []
    for method in METHODS:
        for gpus in GPUS:
            rate = gpus * method.goal_rate
            rows.append(
                (
                    method.title,
                    f"{gpus}",
                    f"{rate:,.0f}",
                    f"{rate * JPEG_BYTES / 1e9:.2f} GB/s",
                    f"{stored / 1e9:,.0f} GB at {STORED_SIDE} px",
                )
            )
    return format_table(header, rows)


def assumptions_table() -> str:
    """The inputs of all tables."""
    rows = [
        ("images of ImageNet-1k's training split", f"{IMAGES:,}"),
        ("global batch, images", f"{GLOBAL_BATCH:,}"),
        *(
            (f"{method.title} on one H200: **goal {method.goal}, not measured**", f"{number(method.goal_rate)}/s")
            for method in METHODS
        ),
        (f"what a GPU sends inside a node of {NODE}, in effect", f"{BANDWIDTH_IN_NODE / 1e9:.0f} GB/s"),
        (
            "what a GPU sends to other nodes, in effect: half of a 400 Gbit/s network card",
            f"{BANDWIDTH_BETWEEN / 1e9:.0f} GB/s",
        ),
        ("latency of a small collective", f"{1e6 * LATENCY_S:.0f} µs"),
        ("bytes of a JPEG", f"{JPEG_BYTES:,}"),
        ("side of an image that is decoded once", f"{STORED_SIDE} px"),
    ]
    return format_table(("input", "value"), rows)


def fill_cost(text: str, results: Mapping[str, Any]) -> str:
    """docs/cost.md with every table made anew; a table stands between `<!-- cost: NAME -->` and `<!-- end -->`.

    Raises:
        KeyError: if the text names a table that there is not.
    """
    tables = {
        "assumptions": assumptions_table,
        "work": work_table,
        "time": lambda: time_table(results),
        "communication": communication_table,
        "data": data_table,
    }
    return BLOCK.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}", text)


def duration(seconds: float) -> str:
    """Minutes, hours, days or years to two or three digits."""
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds / 60)} min"
