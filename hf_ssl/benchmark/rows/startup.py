"""C12: what `import hf_ssl` adds to a process that has torch."""

import subprocess
import sys
from collections.abc import Callable, Iterator

from hf_ssl.benchmark.measuring import Comparison, Experiment, Options, Row, Side

TIMED_IMPORT = "import time, torch; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"


def import_seconds(statement: str) -> Callable[[], float]:
    """A call that gives the seconds which a statement takes in a fresh process, after `import torch`."""
    code = TIMED_IMPORT.format(statement=statement)

    def call() -> float:
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(finished.stdout)

    return call


def _import(options: Options) -> Iterator[Experiment]:
    for statement, goal, stretch in (
        ("import hf_ssl", 0.3, 0.1),
        # hf_ssl imports lazily, and this is where the time is taken then: for information.
        ("import hf_ssl; hf_ssl.SimCLRForPreTraining", None, None),
    ):
        call = import_seconds(statement)
        # The first process reads files that the others find in memory.
        call()
        yield Experiment(
            label=f"`{statement}`",
            sides=(Side("hf_ssl", "", call, gives_reading=True),),
            comparisons=(Comparison("hf_ssl", figure="value", goal=goal, stretch=stretch),),
            check=None,
        )


ROWS = (Row("C12", "startup", "import in a fresh process, beyond `import torch`", _import),)
