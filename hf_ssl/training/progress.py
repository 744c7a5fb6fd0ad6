"""What a run says while it trains: the bar, the log file, the trackers, and the alarm when the loss is not finite."""

import json
import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from hf_ssl.training.checkpoints import Position

LOG = "log.jsonl"
CURVE_POINTS = 500
LINE_INTERVAL_S = 30.0


class Progress:
    """Collects losses on the device without waiting for it, and reports them every few steps.

    Args:
        accelerator: for the mean over processes and the trackers.
        run: folder of the run; lines go to its log.jsonl.
        position: where the run stands; its wall time and loss curve are kept up to date.
        effective_batch_size: images of an optimiser step over all processes.
        total_steps: optimiser steps of the run.
        steps_per_epoch: optimiser steps of an epoch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: Path,
        position: Position,
        effective_batch_size: int,
        total_steps: int,
        steps_per_epoch: float,
    ):
        self.accelerator = accelerator
        self.log = run / LOG
        self.position = position
        self.effective_batch_size = effective_batch_size
        self.steps_per_epoch = steps_per_epoch
        self.losses: list[torch.Tensor] = []
        self.reported_step = position.step
        self.clock = time.perf_counter()
        if accelerator.is_main_process:
            self._forget_steps_after_the_checkpoint()
        # None: on a terminal only; elsewhere there is a line now and then.
        disable = None if accelerator.is_main_process else True
        self.bar = tqdm(
            total=total_steps,
            initial=position.step,
            unit="step",
            desc="pretraining",
            disable=disable,
            dynamic_ncols=True,
        )
        self.total_steps = total_steps
        self.prints_lines = accelerator.is_main_process and self.bar.disable
        self.line_clock = self.clock

    def add_loss(self, loss: torch.Tensor) -> None:
        """Remember the loss of an optimiser step, a detached scalar on the device."""
        self.losses.append(loss)

    def report(self, learning_rate: float, grad_norm: torch.Tensor | None) -> None:
        """Log the mean loss and the speed since the last report.

        Raises:
            FloatingPointError: if a loss since then was not finite on any process.
        """
        losses = self.accelerator.reduce(torch.stack(self.losses), reduction="mean")
        self.losses.clear()
        finite = torch.isfinite(losses).tolist()
        if not all(finite):
            step = self.reported_step + 1 + finite.index(False)
            raise FloatingPointError(
                f"The loss of step {step} (epoch {step / self.steps_per_epoch:.2f}) is not finite; the last "
                "checkpoint is kept: resume from it with a lower --learning_rate, --max_grad_norm 1 or "
                "--mixed_precision no."
            )
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        steps = self.position.step - self.reported_step
        self.reported_step = self.position.step
        self.position.wall_time_s += seconds
        loss = losses.mean().item()
        self.position.loss_curve.append([self.position.step, loss])
        line = {
            "step": self.position.step,
            "epoch": self.position.step / self.steps_per_epoch,
            "loss": loss,
            "learning_rate": learning_rate,
            "images_per_second": steps * self.effective_batch_size / seconds,
        }
        if grad_norm is not None:
            line["grad_norm"] = float(grad_norm)
        self.accelerator.log(line, step=self.position.step)
        if self.accelerator.is_main_process:
            with self.log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        said = f"loss {loss:.4f}, {line['images_per_second']:.0f} images/s"
        self.bar.set_postfix_str(said, refresh=False)
        self.bar.update(steps)
        last = self.position.step == self.total_steps
        if self.prints_lines and (last or now - self.line_clock >= LINE_INTERVAL_S):
            self.line_clock = now
            print(f"step {self.position.step} of {self.total_steps}: {said}", flush=True)

    def restart_clock(self) -> None:
        """Leave the time since the last report out of the wall time and the speed."""
        self.clock = time.perf_counter()

    def close(self) -> None:
        """End the bar's line."""
        self.bar.close()

    def _forget_steps_after_the_checkpoint(self) -> None:
        if self.log.exists():
            lines = [line for line in self.log.read_text().splitlines(True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["step"] <= self.position.step]
            self.log.write_text("".join(kept))


def thin_curve(curve: list[list[float]], points: int = CURVE_POINTS) -> list[list[float]]:
    """At most `points` entries: means of neighbouring (step, loss) entries, each at its last step."""
    group = math.ceil(len(curve) / points) if curve else 1
    chunks = [curve[start : start + group] for start in range(0, len(curve), group)]
    return [[chunk[-1][0], sum(loss for _, loss in chunk) / len(chunk)] for chunk in chunks]
