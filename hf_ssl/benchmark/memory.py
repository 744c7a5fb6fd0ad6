"""Peak memory of a call, in a process of its own so that nothing else counts."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from hf_ssl.benchmark.measuring import NotMeasuredError

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_extra_memory(
    build: Callable[..., Callable[[], Any]], warm_up: Sequence[Any], arguments: Sequence[Any]
) -> int:
    """Bytes by which the resident memory of a fresh process peaks above what it was before a call.

    Args:
        build: a function of a module; given arguments, it prepares the call.
        warm_up: arguments of a small problem, called first: libraries and threads take their memory then.
        arguments: those of the problem that is measured, whose inputs do not count.

    Raises:
        NotMeasuredError: without Linux's /proc.
    """
    if not RESET.exists():
        raise NotMeasuredError("needs Linux's /proc/self/clear_refs, which resets a process's peak of memory")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_here, build, warm_up, arguments, torch.get_num_threads()).result()


def measure_here(
    build: Callable[..., Callable[[], Any]], warm_up: Sequence[Any], arguments: Sequence[Any], threads: int
) -> int:
    """As `peak_extra_memory`, in this process and with so many torch threads."""
    torch.set_num_threads(threads)
    build(*warm_up)()
    call = build(*arguments)
    RESET.write_text("5")
    before = _status_bytes("VmRSS")
    # Held until the peak is read: results belong to what a call takes.
    result = call()
    peak = _status_bytes("VmHWM")
    del result
    return peak - before


def _status_bytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise NotMeasuredError(f"needs {field} in /proc/self/status")
