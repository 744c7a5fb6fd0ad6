"""G2, G3, G8, G9: whole runs on one CUDA GPU, data included, and the linear probe's grid."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel

from hf_ssl import SimCLRForPreTraining
from hf_ssl.benchmark.measuring import Comparison, Experiment, Options, Row, Side, require_cuda, require_package
from hf_ssl.benchmark.pairs.lightly_loop import lightly_pretrain, recipe_dataset
from hf_ssl.benchmark.pairs.simclr import LightlyStyleSimCLR, check_simclr, simclr_input, simclr_pair
from hf_ssl.benchmark.rows.gpu import training_step
from hf_ssl.data import ImageLoader, open_source
from hf_ssl.data.textures import make_textures
from hf_ssl.evaluation.evaluate_encoder import evaluate_encoders
from hf_ssl.evaluation.linear_probe import fit_linear_probe
from hf_ssl.models.encoder import EncoderOutput
from hf_ssl.training.arguments import PretrainArguments, parse_pretrain
from hf_ssl.training.loop import pretrain
from hf_ssl.training.optimizers import create_optimizer

CUDA = torch.device("cuda")
RECIPE_224, RECIPE_64 = "simclr_in100_r50", "simclr_64px_r50"
STEPS, STEPS_64 = 160, 400
ACCURACY, EPOCHS, EPOCHS_BETWEEN_PROBES = 0.5, 100, 5


def log_rate(run: Path) -> float:
    """Images/s of a run: the median of its log's lines, the first third left out (compilation, first batches)."""
    rates = [json.loads(line)["images_per_second"] for line in (run / "log.jsonl").read_text().splitlines()]
    return statistics.median(rates[len(rates) // 3 :])


def pretrain_batch_seconds(argv: list[str]) -> float:
    """Seconds that `hf-ssl pretrain` takes for a batch when it runs steadily."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, arguments, config = parse_pretrain([*argv, "--output_dir", f"{folder}/run"])
        run = pretrain(recipe, arguments, config, "hf-ssl benchmark")
        return arguments.batch_size / log_rate(run)


def _against_resident_batches(options: Options) -> Iterator[Experiment]:
    require_cuda()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "textures", "data")
        data.mkdir(parents=True)
        make_textures("train", num_images=4096, size=320).to_parquet(data / "train-00000-of-00001.parquet")
        argv = ["--config", RECIPE_224, "--dataset", str(data.parent), "--batch_size", "256", "--compile", "true"]
        argv += ["--max_steps", str(STEPS), "--num_threads", str(len(os.sched_getaffinity(0)))]
        _, arguments, config = parse_pretrain(argv)
        model = SimCLRForPreTraining(config).to(CUDA, memory_format=torch.channels_last).train()
        model.compile()
        views = simclr_input(config, arguments.batch_size, "cuda")
        optimizer = create_optimizer(model, arguments, 1e-4)
        yield Experiment(
            label=f"{RECIPE_224}, batch {arguments.batch_size}, 4,096 JPEGs of 320 px, steady",
            sides=(
                Side("hf_ssl end to end", "bf16", partial(pretrain_batch_seconds, argv), gives_reading=True),
                Side("resident batches", "bf16", training_step(model, views, optimizer)),
            ),
            comparisons=(
                Comparison("hf_ssl end to end bf16", "resident batches bf16", goal=0.97, stretch=0.99),
                Comparison("hf_ssl end to end bf16", figure="rate"),
            ),
            # Both sides are the same model and optimiser of ours.
            check=None,
            images=arguments.batch_size,
            device="cuda",
            repeats=3,
        )


def lightly_batch_seconds(argv: list[str]) -> float:
    """Seconds that lightly's loop takes for a batch: those of its second epoch, when the workers run."""
    _, arguments, config = parse_pretrain(argv)
    clock = []

    def after_epoch(epoch: int, model: LightlyStyleSimCLR) -> bool:
        torch.cuda.synchronize()
        clock.append(time.perf_counter())
        return len(clock) == 2

    count = open_source(arguments.dataset, split=arguments.train_split).num_rows // arguments.batch_size
    lightly_pretrain(config, arguments, CUDA, after_epoch)
    return (clock[1] - clock[0]) / count


def _against_lightly_at_64_px(options: Options) -> Iterator[Experiment]:
    require_cuda()
    require_package("lightly")
    argv = ["--config", RECIPE_64, "--dataset", recipe_dataset(options.dataset), "--compile", "true"]
    argv += ["--max_steps", str(STEPS_64), "--num_threads", str(len(os.sched_getaffinity(0)))]
    _, arguments, config = parse_pretrain(argv)
    yield Experiment(
        label=f"{RECIPE_64}, batch {arguments.batch_size}, steady",
        sides=(
            Side("hf_ssl", "bf16", partial(pretrain_batch_seconds, argv), gives_reading=True),
            Side("lightly", "bf16", partial(lightly_batch_seconds, argv), gives_reading=True),
        ),
        comparisons=(Comparison("hf_ssl bf16", "lightly bf16", goal=3.0, stretch=5.0),),
        check=lambda: check_simclr(*simclr_pair(config, "cuda"), simclr_input(config, 16, "cuda")),
        images=arguments.batch_size,
        device="cuda",
        repeats=1,
    )


class _Pooled(nn.Module):
    """A timm encoder as the evaluation calls it."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: torch.Tensor) -> EncoderOutput:
        """Pooled features."""
        return EncoderOutput(pooler_output=self.encoder(pixel_values))


def linear_accuracy(encoder: nn.Module, arguments: PretrainArguments, config) -> float:
    """Top-1 of the linear probe, the same for both sides."""
    train, test = (
        open_source(arguments.dataset, split=split, label_column=arguments.label_column)
        for split in (arguments.train_split, arguments.eval_split)
    )
    loaders = [
        ImageLoader(
            source,
            batch_size=512,
            image_size=arguments.storage_size or config.image_size,
            shuffle=False,
            drop_last=False,
            num_threads=len(os.sched_getaffinity(0)),
        )
        for source in (train, test)
    ]
    evaluation = evaluate_encoders(
        {"pretrained": encoder},
        *loaders,
        num_classes=len(train.class_names),
        output_size=config.image_size,
        mean=config.image_mean,
        std=config.image_std,
        knn_k=None,
        raw_pixels=False,
        device=CUDA,
        autocast_dtype=torch.bfloat16,
    )
    return evaluation.results[0]["accuracy"]


class _ReachedError(Exception):
    """Ends a run that is accurate enough."""


@dataclass
class _Watch:
    """A clock that stands still while the accuracy is measured."""

    seconds: float = 0.0
    since: float = 0.0

    def start(self) -> None:
        """Go on."""
        self.since = time.perf_counter()

    def stop(self) -> None:
        """Wait for the device and stand still."""
        torch.accelerator.synchronize()
        self.seconds += time.perf_counter() - self.since


def our_seconds_to_accuracy(argv: list[str]) -> float:
    """Wall clock of `hf-ssl pretrain` until a state of every few epochs is accurate enough, without the probes."""
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder:
        argv = [*argv, "--output_dir", f"{folder}/run", "--push_epochs", str(EPOCHS_BETWEEN_PROBES)]
        recipe, arguments, config = parse_pretrain(argv)

        def judge(state: Path) -> None:
            watch.stop()
            if (
                linear_accuracy(AutoModel.from_pretrained(state / "pretraining").to(CUDA), arguments, config)
                >= ACCURACY
            ):
                raise _ReachedError
            watch.start()

        watch.start()
        try:
            pretrain(recipe, arguments, config, "hf-ssl benchmark", judge)
        except _ReachedError:
            return watch.seconds
    raise RuntimeError(f"hf_ssl did not reach {ACCURACY:.0%} in {EPOCHS} epochs")


def lightly_seconds_to_accuracy(argv: list[str]) -> float:
    """The same of lightly's loop."""
    _, arguments, config = parse_pretrain(argv)
    watch, reached = _Watch(), []

    def judge(epoch: int, model: LightlyStyleSimCLR) -> bool:
        if epoch % EPOCHS_BETWEEN_PROBES:
            return False
        watch.stop()
        if linear_accuracy(_Pooled(model.backbone), arguments, config) >= ACCURACY:
            reached.append(epoch)
        watch.start()
        return bool(reached)

    watch.start()
    lightly_pretrain(config, arguments, CUDA, judge)
    if not reached:
        raise RuntimeError(f"lightly did not reach {ACCURACY:.0%} in {EPOCHS} epochs")
    return watch.seconds


def _time_to_accuracy(options: Options) -> Iterator[Experiment]:
    require_cuda()
    require_package("lightly")
    argv = ["--config", RECIPE_64, "--dataset", recipe_dataset(options.dataset), "--epochs", str(EPOCHS)]
    argv += ["--compile", "true", "--num_threads", str(len(os.sched_getaffinity(0)))]
    _, _, config = parse_pretrain(argv)
    yield Experiment(
        label=f"{RECIPE_64}, {EPOCHS} epochs, probed every {EPOCHS_BETWEEN_PROBES} off the clock",
        sides=(
            Side("hf_ssl", "bf16", partial(our_seconds_to_accuracy, argv), gives_reading=True),
            Side("lightly", "bf16", partial(lightly_seconds_to_accuracy, argv), gives_reading=True),
        ),
        comparisons=(Comparison("hf_ssl bf16", "lightly bf16", goal=3.0, stretch=5.0),),
        check=lambda: check_simclr(*simclr_pair(config, "cuda"), simclr_input(config, 16, "cuda")),
        device="cuda",
        repeats=1,
    )


def probe_problem(count: int, width: int, classes: int) -> Callable[[], object]:
    """Fit the probe with its whole grid to features of noisy classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator)
    features = centres[labels] + 6 * torch.randn(count, width, generator=generator)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda: fit_linear_probe(features, labels, classes, device=device)


def _probe(options: Options) -> Iterator[Experiment]:
    require_cuda()
    count, width = 126_689, 2048
    yield Experiment(
        label=f"{count:,} × {width} features that are at hand, 100 classes",
        sides=(Side("hf_ssl", "fp32", probe_problem(count, width, 100)),),
        comparisons=(Comparison("hf_ssl fp32", figure="value", goal=60.0, stretch=20.0),),
        check=None,
        device="cuda",
    )


ROWS = (
    Row(
        "G2",
        "end-to-end",
        "SimCLR ResNet-50 at 224 px end to end against the step on resident synthetic batches",
        _against_resident_batches,
    ),
    Row("G3", "end-to-end", "SimCLR at 64 px end to end", _against_lightly_at_64_px),
    Row("G8", "end-to-end", "linear probe with its whole grid", _probe),
    Row("G9", "end-to-end", "wall clock to 50 % linear top-1, SimCLR at 64 px", _time_to_accuracy),
)
