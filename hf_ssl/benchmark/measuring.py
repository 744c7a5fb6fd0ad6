"""The measuring: check that both sides compute the same thing, then time them in turn in one process.

A row is one measure of the goals, an experiment one problem size of it. An experiment has two or more sides, such as
ours in bf16 and a peer in fp32 and in bf16, and comparisons between their medians. Sides take turns, the order turning
round each time, so that whatever else the machine does meets all of them.
"""

import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

# A reading of less than this is of many calls: clocks and schedulers are coarse.
SHORTEST_READING_S = 0.2
MAX_CALLS = 1000

Figure = Literal["speedup", "share", "value", "rate"]
Quantity = Literal["seconds", "bytes"]


class NotMeasuredError(Exception):
    """This machine cannot measure a row; the message says what is lacking."""


class CheckFailedError(Exception):
    """Two sides do not compute the same thing; the message says what differs, by how much, and the tolerance."""


@dataclass(frozen=True)
class Options:
    """What a user sets.

    Args:
        repeats: readings of each side, where the experiment does not set its own.
        dataset: folder of real images with labels, such as tiny-imagenet-100, for the rows that need one.
    """

    repeats: int = 5
    dataset: Path | None = None


@dataclass(frozen=True)
class Side:
    """One of the things compared.

    Args:
        name: "hf_ssl", or the peer's name.
        precision: of the products, such as "fp32" or "bf16"; empty where it has no meaning.
        call: does the work once. The core times it, unless `gives_reading`.
        gives_reading: the call returns the reading itself, in the experiment's quantity; it measures in a process of
            its own, for example.
    """

    name: str
    precision: str
    call: Callable[[], Any]
    gives_reading: bool = False

    @property
    def key(self) -> str:
        """The name that comparisons use: "hf_ssl bf16"."""
        return f"{self.name} {self.precision}".strip()


@dataclass(frozen=True)
class Comparison:
    """A figure made of one or two sides' medians, with what it should be.

    Args:
        ours: key of our side.
        peer: key of the other side; None for the figures "value" and "rate".
        figure: "speedup", the peer's median / ours (larger is better); "share", ours / the peer's (smaller is
            better); "value", our median itself (smaller is better); "rate", our images per second.
        goal: None for a comparison that is there for information, such as the one at equal precision.
        stretch: the further goal, if there is one.
    """

    ours: str
    peer: str | None = None
    figure: Figure = "speedup"
    goal: float | None = None
    stretch: float | None = None


@dataclass(frozen=True)
class Experiment:
    """One problem size of a row.

    Args:
        label: what distinguishes it: "2N = 4096, d = 128".
        sides: ours and the peers.
        comparisons: of their medians.
        check: raises `CheckFailedError` unless the sides compute the same; returns what it found, for the record.
            None only where nothing is compared with another implementation.
        images: work of one call, if it is images (SimCLR: pairs of views; augmentation: views).
        quantity: of the readings.
        device: "cuda" waits for the device at both ends of a reading.
        repeats: readings of each side, in place of the user's number: for what takes minutes.
    """

    label: str
    sides: Sequence[Side]
    comparisons: Sequence[Comparison]
    check: Callable[[], str] | None
    images: int | None = None
    quantity: Quantity = "seconds"
    device: str = "cpu"
    repeats: int | None = None


@dataclass(frozen=True)
class Row:
    """One measure of the goals.

    Args:
        name: "C5".
        subject: what it can be selected by too, with the others of its file: "loss".
        measure: what is measured, in one line.
        experiments: builds one experiment after the other, when it is its turn. Raises `NotMeasuredError` if this
            machine lacks what it takes.
    """

    name: str
    subject: str
    measure: str
    experiments: Callable[[Options], Iterator[Experiment]]


@dataclass
class Clock:
    """Time, and waiting for a device; tests put their own in its place."""

    now: Callable[[], float] = time.perf_counter
    synchronize: Callable[[], None] = field(default=lambda: torch.cuda.synchronize())


def require_cuda() -> None:
    """Raise `NotMeasuredError` on a machine without a CUDA GPU."""
    if not torch.cuda.is_available():
        raise NotMeasuredError("needs a CUDA GPU")


def require_package(package: str) -> None:
    """Raise `NotMeasuredError` if a peer is not installed."""
    if find_spec(package) is None:
        raise NotMeasuredError(f"{package} is not installed: pip install 'hf_ssl[bench]'")


def require_memory(gibibytes: float) -> None:
    """Raise `NotMeasuredError` if a peer would take more memory than is free: the system would end the process."""
    free = psutil.virtual_memory().available / 2**30
    if free < gibibytes:
        raise NotMeasuredError(f"needs {gibibytes:g} GiB of free memory for the peer, and there are {free:.1f}")


def measure_row(
    row: Row, options: Options, report: Callable[[str], None] = lambda line: None, clock: Clock | None = None
) -> dict[str, Any]:
    """Check and measure one row.

    Returns:
        The row's part of the results: `status` is "measured", "not measured", "check failed", "failed" (an error,
        whose traceback is reported) or "interrupted", with a `reason` for all but the first, beside the experiments
        that were finished.
    """
    clock = clock or Clock()
    record = {
        "name": row.name,
        "subject": row.subject,
        "measure": row.measure,
        "status": "measured",
        "reason": None,
        "experiments": [],
    }
    try:
        for experiment in row.experiments(options):
            record["experiments"].append(_measure_experiment(row, experiment, options, report, clock))
    except NotMeasuredError as error:
        record.update(status="not measured", reason=str(error))
    except CheckFailedError as error:
        record.update(status="check failed", reason=str(error))
    except KeyboardInterrupt:
        record.update(status="interrupted", reason="interrupted before it was finished")
    except Exception as error:
        # A row that breaks must not take what the others measured with it.
        report(traceback.format_exc())
        record.update(status="failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return record


def _measure_experiment(
    row: Row, experiment: Experiment, options: Options, report: Callable[[str], None], clock: Clock
) -> dict[str, Any]:
    title = f"{row.name} {experiment.label}"
    found = None
    if experiment.check is not None:
        report(f"{title}: checking that both sides compute the same")
        found = experiment.check()
    keys = ", ".join(side.key for side in experiment.sides)
    report(f"{title}: measuring {keys}")
    repeats = experiment.repeats or options.repeats
    readings = alternate({side.key: reader(side, experiment.device, clock) for side in experiment.sides}, repeats)
    medians = {key: statistics.median(values) for key, values in readings.items()}
    for key, median in medians.items():
        report(f"{title}: {key} {median:.4g} {experiment.quantity}")
    return {
        "label": experiment.label,
        "quantity": experiment.quantity,
        "images": experiment.images,
        "device": experiment.device,
        "threads": torch.get_num_threads(),
        "check": found,
        "sides": [
            {
                "name": side.name,
                "precision": side.precision,
                "key": side.key,
                "readings": readings[side.key],
                "median": medians[side.key],
                "low": min(readings[side.key]),
                "high": max(readings[side.key]),
            }
            for side in experiment.sides
        ],
        "comparisons": [compare(comparison, medians, experiment.images) for comparison in experiment.comparisons],
    }


def reader(side: Side, device: str, clock: Clock) -> Callable[[], float]:
    """A function that takes one reading of a side; it has warmed up the side by then."""
    if side.gives_reading:
        return lambda: float(side.call())
    wait = clock.synchronize if device == "cuda" else lambda: None

    def time_calls(calls: int) -> float:
        wait()
        start = clock.now()
        for _ in range(calls):
            side.call()
        wait()
        return (clock.now() - start) / calls

    # The first call also allocates, compiles and fills caches; whether calls are short the second one tells.
    duration = time_calls(1)
    if duration < 10 * SHORTEST_READING_S:
        duration = time_calls(1)
    calls = min(max(math.ceil(SHORTEST_READING_S / max(duration, 1e-9)), 1), MAX_CALLS)
    return lambda: time_calls(calls)


def alternate(readers: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Take `repeats` readings of each side in turn, A B, B A, A B …, so that a drift of the machine meets all."""
    readings: dict[str, list[float]] = {key: [] for key in readers}
    for turn in range(repeats):
        for key in list(readers) if turn % 2 == 0 else reversed(readers):
            readings[key].append(readers[key]())
    return readings


def compare(comparison: Comparison, medians: Mapping[str, float], images: int | None) -> dict[str, Any]:
    """A comparison's figure and what it amounts to: `verdict` is "stretch", "goal", "short", or None without goal."""
    ours = medians[comparison.ours]
    if comparison.figure == "speedup":
        value = medians[comparison.peer] / ours
    elif comparison.figure == "share":
        value = ours / medians[comparison.peer]
    elif comparison.figure == "rate":
        value = images / ours
    else:
        value = ours
    larger_is_better = comparison.figure in ("speedup", "rate")

    def reached(target: float | None) -> bool:
        return target is not None and (value >= target if larger_is_better else value <= target)

    verdict = None
    if comparison.goal is not None:
        verdict = "stretch" if reached(comparison.stretch) else "goal" if reached(comparison.goal) else "short"
    return {
        "figure": comparison.figure,
        "ours": comparison.ours,
        "peer": comparison.peer,
        "value": value,
        "goal": comparison.goal,
        "stretch": comparison.stretch,
        "verdict": verdict,
    }
