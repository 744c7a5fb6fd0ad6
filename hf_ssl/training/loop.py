"""The pretraining loop: batches, views, loss, step; the same for every method.

The views of a micro-batch are a pure function of (seed, its position, rank, world size), and the random state that
masks are drawn from is part of a checkpoint: a resumed run equals an uninterrupted one.
"""

from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, set_seed
from timm.layers import convert_sync_batchnorm
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.data.sources import open_source
from hf_ssl.models.encoder import choose_attention
from hf_ssl.randomness import random_states_kept
from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.checkpoints import (
    Position,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_position,
    save_checkpoint,
)
from hf_ssl.training.gradient_cache import check_gradient_cache, gradient_cached_backward
from hf_ssl.training.initialization import create_model
from hf_ssl.training.interruption import Interruption
from hf_ssl.training.optimizers import create_optimizer, create_schedule
from hf_ssl.training.progress import Progress
from hf_ssl.training.record import RunRecord
from hf_ssl.training.views import TrainingViews

# Runs as they stood when they were published, each a folder like that of the run.
SNAPSHOTS = "snapshots"
PUBLISHING_TIME_LIMIT = timedelta(hours=6)


def pretrain(
    recipe: str,
    arguments: PretrainArguments,
    config: PreTrainedConfig,
    command: str,
    publish: Callable[[Path], None] | None = None,
) -> Path:
    """Pretrain a model and leave it in `output_dir`.

    The run's folder then holds `pretraining/` (the model), `results.json` (its pretraining part), `recipe.yaml` (all
    arguments), `log.jsonl` and `checkpoints/`.

    Args:
        recipe: the recipe's name, for the record.
        arguments: what to train on and how.
        config: of a model that `AutoModelForPreTraining` knows.
        command: the command line, for the record.
        publish: called by the main process with the folder of the run as it stands, every `push_epochs` and at the
            end, while the other processes wait.

    Returns:
        The run's folder.

    Raises:
        FileExistsError: if the folder holds a finished run, or an unfinished one that this one does not resume.
        FloatingPointError: if the loss is not finite; the last checkpoint is kept.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; a single process finishes its step and writes a checkpoint first.
        ValueError: if the data, the checkpoint or the tracker does not fit.
    """
    run = Path(arguments.output_dir)
    if (run / "results.json").exists():
        raise FileExistsError(f"{run} holds a finished run; choose another --output_dir.")
    if arguments.resume_from_checkpoint is None and list_checkpoints(run):
        raise FileExistsError(
            f"{run} holds an unfinished run; continue it with --resume_from_checkpoint latest, or choose another "
            "--output_dir."
        )
    # Accelerate keeps the precision of the process's first run; this one may have another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Said outright, or Accelerate takes two processes on a CPU for two runs of one.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=arguments.mixed_precision,
        log_with=arguments.report_to,
        project_dir=str(run),
        # Processes wait for one that evaluates and publishes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PUBLISHING_TIME_LIMIT)] if publish else [],
    )
    if arguments.report_to is not None and not accelerator.log_with:
        raise ValueError(
            f"The tracker '{arguments.report_to}' of --report_to is not installed or not known to Accelerate; "
            f"install it, as in pip install {arguments.report_to}, or leave the flag out."
        )
    device = accelerator.device
    set_seed(arguments.seed)

    source = open_source(
        arguments.dataset,
        split=arguments.train_split,
        image_column=arguments.image_column,
        label_column=None,
        num_rows=arguments.num_train_images,
    )
    checkpoint, continues_from_originals = None, None
    if arguments.resume_from_checkpoint is not None:
        checkpoint = find_checkpoint(run, arguments.resume_from_checkpoint)
        continues_from_originals = read_position(checkpoint).order.get("cache") == "none"
    views = TrainingViews(
        source,
        arguments,
        config,
        device,
        on_host=device.type == "cpu",
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        continues_from_originals=continues_from_originals,
    )
    accumulation = arguments.gradient_accumulation_steps
    effective_batch_size = arguments.batch_size * accumulation * accelerator.num_processes
    steps_per_epoch = views.batches_per_epoch / accumulation
    total_steps = max(int(arguments.epochs * steps_per_epoch), 1)
    if arguments.max_steps is not None:
        total_steps = min(total_steps, arguments.max_steps)

    model, initialized_from = create_model(config, arguments.initialize_from)
    if arguments.gradient_cache_chunk_size is not None:
        check_gradient_cache(model)
    model = _prepare_model(model, arguments, accelerator)
    learning_rate = arguments.peak_learning_rate(effective_batch_size)
    optimizer = create_optimizer(model, arguments, learning_rate)
    schedule = create_schedule(optimizer, arguments, total_steps, steps_per_epoch)
    # Not through prepare, which would step the schedule once for every process.
    accelerator.register_for_checkpointing(schedule)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    set_seed(arguments.seed, device_specific=True)

    position = Position(order=_order(arguments, accelerator, total_steps, views))
    if checkpoint is not None:
        # The state holds the rates it was saved with; what is asked for now counts.
        asked = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        position = load_checkpoint(accelerator, run, checkpoint, position.order)
        schedule.base_lrs = [hyperparameters["initial_lr"] for hyperparameters in asked]
        for group, hyperparameters, factor in zip(optimizer.param_groups, asked, schedule.lr_lambdas, strict=True):
            group.update(hyperparameters, lr=hyperparameters["initial_lr"] * factor(schedule.last_epoch))
    record = RunRecord(
        recipe,
        arguments,
        config,
        command,
        source,
        initialized_from,
        "originals" if views.from_originals else "squares",
        effective_batch_size,
        steps_per_epoch,
        device,
        accelerator.num_processes,
    )
    if accelerator.is_main_process:
        record.write_recipe(run)
    if arguments.report_to is not None:
        accelerator.init_trackers("hf_ssl", config={"recipe": recipe, "learning_rate": learning_rate})

    progress = Progress(accelerator, run, position, effective_batch_size, total_steps, steps_per_epoch)
    micro_batches = views.micro_batches(position.step * accumulation)
    checkpoint_steps = max(round(arguments.checkpoint_epochs * steps_per_epoch), 1)
    publish_steps = max(round(arguments.push_epochs * steps_per_epoch), 1)
    wrapped.train()
    interruption = Interruption(enabled=accelerator.num_processes == 1)
    with interruption, closing(progress), closing(micro_batches):
        while position.step < total_steps:
            step_loss = torch.zeros((), device=device)
            for micro in range(accumulation):
                # Gradients travel between processes once, with the last micro-batch.
                is_last = micro == accumulation - 1
                step_loss += _backward(accelerator, wrapped, next(micro_batches), arguments, synchronize=is_last)
            progress.add_loss(step_loss)
            norm = None
            if arguments.max_grad_norm is not None:
                norm = accelerator.clip_grad_norm_(wrapped.parameters(), arguments.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            position.step += 1
            interrupted = interruption.requested
            finished = position.step == total_steps
            publishes = publish is not None and not finished and position.step % publish_steps == 0
            saves = interrupted or finished or publishes or position.step % checkpoint_steps == 0
            if saves or position.step % arguments.logging_steps == 0:
                progress.report(schedule.get_last_lr()[0], norm)
            if saves:
                _check_weights(model, position.step, run)
                save_checkpoint(accelerator, run, position, arguments.checkpoint_limit)
            if publishes and not interrupted:
                if accelerator.is_main_process:
                    snapshot = run / SNAPSHOTS / f"step-{position.step:08d}"
                    with random_states_kept():
                        record.write(snapshot, accelerator.unwrap_model(wrapped), position)
                        publish(snapshot)
                accelerator.wait_for_everyone()
                progress.restart_clock()
            if interrupted:
                raise KeyboardInterrupt(
                    f"Interrupted after step {position.step} of {total_steps}; continue with "
                    f"--output_dir {run} --resume_from_checkpoint latest."
                )

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        record.write(run, accelerator.unwrap_model(wrapped), position)
        if publish is not None:
            publish(run)
    accelerator.end_training()
    return run


def _prepare_model(model: PreTrainedModel, arguments: PretrainArguments, accelerator: Accelerator) -> PreTrainedModel:
    choose_attention(model, accelerator.device, arguments.mixed_precision)
    if arguments.gradient_checkpointing:
        # Called activation_checkpointing_enable from transformers 5.23 on, which knows this name until 6.
        model.gradient_checkpointing_enable()
    if arguments.channels_last:
        model.to(memory_format=torch.channels_last)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        # Statistics of one device would tell positives (same device) from negatives (SimCLR, section 2.2).
        # timm's converter, as torch's loses the activations of timm's fused norms.
        model = convert_sync_batchnorm(model)
    if arguments.compile:
        model.compile()
    return model


def _backward(
    accelerator: Accelerator,
    wrapped: nn.Module,
    pixel_values: torch.Tensor,
    arguments: PretrainArguments,
    synchronize: bool,
) -> torch.Tensor:
    """Add the gradients of a micro-batch, and return its part of the step's loss."""
    scale = 1 / arguments.gradient_accumulation_steps
    chunk_size = arguments.gradient_cache_chunk_size
    if chunk_size is not None:
        return gradient_cached_backward(accelerator, wrapped, pixel_values, chunk_size, scale, synchronize)
    with nullcontext() if synchronize else accelerator.no_sync(wrapped):
        loss = wrapped(pixel_values).loss * scale
        accelerator.backward(loss)
    return loss.detach()


def _check_weights(model: PreTrainedModel, step: int, run: Path) -> None:
    """A gradient that is not finite leaves a finite loss behind; it must not reach a checkpoint."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise FloatingPointError(
                f"The weights '{name}' are not finite at step {step}; the last checkpoint of {run} is kept: resume "
                "from it with a lower --learning_rate, --max_grad_norm 1 or --mixed_precision no."
            )


def _order(
    arguments: PretrainArguments, accelerator: Accelerator, total_steps: int, views: TrainingViews
) -> dict[str, Any]:
    names = ("dataset", "train_split", "seed", "batch_size", "gradient_accumulation_steps")
    return {
        **{name: getattr(arguments, name) for name in names},
        "num_processes": accelerator.num_processes,
        "total_steps": total_steps,
        # Squeezed or not: all kinds of cache hold the same pixels.
        "cache": "none" if views.from_originals else "memory",
    }
