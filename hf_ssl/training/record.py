"""What a run leaves behind: its model, results.json and the recipe that repeats it."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.data.sources import ImageSource
from hf_ssl.evaluation.results import write_results
from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.checkpoints import Position
from hf_ssl.training.environment import describe_hardware, describe_versions
from hf_ssl.training.progress import thin_curve

RECIPE = "recipe.yaml"
# Flags of this run alone.
NOT_REPEATED = ("resume_from_checkpoint", "push_to_hub", "push_epochs", "push_private")


@dataclass
class RunRecord:
    """All of a run that does not change while it goes on.

    Attributes:
        recipe: the recipe's name.
        arguments: of the run.
        config: of the model.
        command: the command line.
        source: the images.
        initialized_from: the model whose weights the run started from, None for random ones.
        crops_from: "originals", or "squares" of `storage_size`.
        effective_batch_size: images of an optimiser step over all processes.
        steps_per_epoch: optimiser steps of an epoch.
        device: of this process.
        num_processes: of the run.
    """

    recipe: str
    arguments: PretrainArguments
    config: PreTrainedConfig
    command: str
    source: ImageSource
    initialized_from: str | None
    crops_from: str
    effective_batch_size: int
    steps_per_epoch: float
    device: torch.device
    num_processes: int

    def write_recipe(self, folder: Path) -> None:
        """Write all arguments as a recipe that repeats the run."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"model_type": self.config.model_type, **_own_fields(self.config), **_plain(self.arguments)}
        for not_of_the_recipe in ("output_dir", "resume_from_checkpoint", "push_to_hub"):
            del content[not_of_the_recipe]
        text = f"# {self.recipe}, with every argument\n{yaml.safe_dump(content, sort_keys=False)}"
        (folder / RECIPE).write_text(text)

    def write(self, folder: Path, model: PreTrainedModel, position: Position) -> None:
        """Write the run as it stands at a position: `pretraining/`, recipe.yaml and, last, results.json."""
        self.write_recipe(folder)
        model.save_pretrained(folder / "pretraining")
        images_seen = position.step * self.effective_batch_size
        pretraining = {
            "recipe": self.recipe,
            "arguments": _plain(self.arguments),
            "dataset": self.source.name,
            "revision": self.source.revision,
            "split": self.arguments.train_split,
            "num_images": self.source.num_rows,
            "crops_from": self.crops_from,
            "epochs": position.step / self.steps_per_epoch,
            "steps": position.step,
            "effective_batch_size": self.effective_batch_size,
            "images_seen": images_seen,
            "wall_time_s": position.wall_time_s,
            "images_per_second": images_seen / position.wall_time_s,
            "precision": "fp32" if self.arguments.mixed_precision == "no" else self.arguments.mixed_precision,
            "hardware": describe_hardware(self.device, self.num_processes),
            "versions": describe_versions(),
            "final_loss": position.loss_curve[-1][1],
            "loss_curve": thin_curve(position.loss_curve),
            "command": repeating_command(self.command, self.num_processes),
        }
        if self.initialized_from is not None:
            pretraining["initialized_from"] = self.initialized_from
        results = {"schema_version": 1, "model": describe_model(model), "pretraining": pretraining}
        write_results(folder / "results.json", results)


def describe_model(model: PreTrainedModel) -> dict[str, Any]:
    """The model part of results.json."""
    return {
        "model_type": model.config.model_type,
        "method": model.config.description.name,
        "backbone": model.config.backbone,
        "config": _own_fields(model.config),
        "encoder_parameters": sum(weight.numel() for weight in model.to_timm().parameters()),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def repeating_command(command: str, num_processes: int) -> str:
    """The command that starts a run anew, with as many processes, and publishes nothing."""
    words = shlex.split(command)
    kept: list[str] = []
    skips_value = False
    for word in words:
        if skips_value and not word.startswith("--"):
            skips_value = False
            continue
        flag, equals, _ = word.partition("=")
        # The parser takes dashes for underscores.
        if word.startswith("--") and flag[2:].replace("-", "_") in NOT_REPEATED:
            skips_value = not equals
            continue
        skips_value = False
        kept.append(word)
    words = kept
    if num_processes > 1 and words[:2] == ["hf-ssl", "pretrain"]:
        launcher = ["accelerate", "launch", "--num_processes", str(num_processes), "scripts/pretrain.py"]
        words = [*launcher, *words[2:]]
    return shlex.join(words)


def _plain(arguments: PretrainArguments) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(arguments)))


def _own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    inherited = PreTrainedConfig().to_dict()
    return {name: value for name, value in config.to_dict().items() if name not in inherited}
