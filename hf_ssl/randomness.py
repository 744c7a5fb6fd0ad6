"""Global random states, kept by what may be called in the middle of a run."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Give the global random states of Python, numpy, and torch on the CPU and on GPUs back as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()), device_type="cuda"):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
