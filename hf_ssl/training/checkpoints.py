"""Checkpoints of a run: Accelerate's state beside the position in the stream, written whole or not at all."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

POSITION = "position.json"


@dataclass
class Position:
    """Where a run stands.

    Args:
        step: optimiser steps done.
        wall_time_s: seconds of training so far, over all resumed parts.
        loss_curve: (step, mean loss since the previous entry).
        order: everything that decides which images step n sees; a resumed run must agree with it.
    """

    step: int = 0
    wall_time_s: float = 0.0
    loss_curve: list[list[float]] = dataclasses.field(default_factory=list)
    order: dict[str, Any] = dataclasses.field(default_factory=dict)


def save_checkpoint(accelerator: Accelerator, run: Path, position: Position, limit: int) -> Path:
    """Write `run/checkpoints/step-N` through a temporary folder; remove all but the `limit` newest afterwards."""
    final = run / "checkpoints" / f"step-{position.step:08d}"
    partial = final.with_name(f".partial-{final.name}")
    accelerator.save_state(str(partial))
    # Every process writes its random state.
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / POSITION).write_text(json.dumps(dataclasses.asdict(position)))
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        for old in list_checkpoints(run)[:-limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path.parent for path in (run / "checkpoints").glob(f"step-*/{POSITION}"))


def find_checkpoint(run: Path, resume_from: str) -> Path:
    """The checkpoint that `--resume_from_checkpoint` means.

    Raises:
        FileNotFoundError: if there is none.
    """
    if resume_from == "latest":
        checkpoints = list_checkpoints(run)
        if not checkpoints:
            raise FileNotFoundError(
                f"{run}/checkpoints holds no checkpoint; leave --resume_from_checkpoint out to start anew."
            )
        return checkpoints[-1]
    if not (Path(resume_from) / POSITION).is_file():
        raise FileNotFoundError(
            f"'{resume_from}' is not a checkpoint; give 'latest' or a folder such as {run}/checkpoints/step-00000100."
        )
    return Path(resume_from)


def read_position(checkpoint: Path) -> Position:
    """Where the run stood when it wrote a checkpoint."""
    return Position(**json.loads((checkpoint / POSITION).read_text()))


def load_checkpoint(accelerator: Accelerator, run: Path, checkpoint: Path, order: dict[str, Any]) -> Position:
    """Restore model, optimiser, schedule and random states, and say where the run stands.

    Raises:
        ValueError: if the run was started with another order of examples, or its folder holds later checkpoints.
    """
    position = read_position(checkpoint)
    later = [path for path in list_checkpoints(run) if path.name > f"step-{position.step:08d}"]
    if later:
        raise ValueError(
            f"{run} holds the checkpoint {later[-1].name}, later than {checkpoint}; resume from 'latest', or from "
            "this one in another --output_dir."
        )
    for key, value in position.order.items():
        if order[key] != value:
            raise ValueError(
                f"The checkpoint {checkpoint} was written with {key}={value}, this run has {order[key]}; "
                f"resume with {key}={value}, or start anew in another --output_dir."
            )
    accelerator.load_state(str(checkpoint))
    return position
