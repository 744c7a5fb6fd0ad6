"""The code on a card, run as its readers will run it: a promise that was tried."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

# One process for all blocks, as importing torch takes seconds; a namespace for each.
_RUNNER = """\
import json, sys, traceback
for number, block in enumerate(json.load(sys.stdin), start=1):
    try:
        exec(compile(block, f"block {number} of README.md", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        traceback.print_exc()
        print(f"block {number} of README.md: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
"""
PICTURE = "picture.jpg"
# What torchrun and accelerate tell the processes of a run, of which the code is none.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIME_LIMIT_S = 1800


class CardCodeError(ValueError):
    """A code block of a card does not run."""


def run_code_blocks(blocks: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run the Python blocks of a card in a process of its own, each as if it stood alone.

    Args:
        blocks: from `render_code_blocks`.
        folder: where the code runs; gets a picture.jpg for the blocks that read one.
        environment: variables to set beside those of this process, if any.

    Raises:
        CardCodeError: a block failed; the message names it and its error.
    """
    Image.linear_gradient("L").convert("RGB").resize((320, 240)).save(folder / PICTURE)
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    try:
        # -P: nothing that lies in the folder is imported by its name.
        finished = subprocess.run(
            [sys.executable, "-P", "-c", _RUNNER],
            input=json.dumps(list(blocks)),
            capture_output=True,
            text=True,
            cwd=folder,
            env={**inherited, **(environment or {})},
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CardCodeError(f"The card's code ran longer than {TIME_LIMIT_S} s; see why, and try again.") from error
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or [f"it ended with status {finished.returncode}"]
        raise CardCodeError(f"The card's code does not run ({lines[-1].strip()}); mend what it names and try again.")
