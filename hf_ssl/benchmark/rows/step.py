"""C8 to C10: training steps of MAE against transformers' ViTMAE, and of SimCLR against the loop lightly documents."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from hf_ssl import MAEConfig, SimCLRConfig
from hf_ssl.benchmark.measuring import Comparison, Experiment, Options, Row, Side, require_package
from hf_ssl.benchmark.pairs.mae import check_mae, mae_input, mae_pair, mae_step
from hf_ssl.benchmark.pairs.simclr import check_simclr, simclr_input, simclr_pair, simclr_step

MAE_BATCH = 8
SIMCLR_BATCHES = {224: 8, 64: 64}


def mae_experiment(config: MAEConfig, batch: int) -> Experiment:
    """Forward and backward of both in both precisions."""
    ours, peer = mae_pair(config)
    images, noise = mae_input(config, batch)
    sides = [
        Side(name, precision, mae_step(model, images, noise, precision))
        for name, model in (("hf_ssl", ours), ("transformers", peer))
        for precision in ("bf16", "fp32")
    ]
    return Experiment(
        label=f"batch {batch}",
        sides=sides,
        comparisons=(
            Comparison("hf_ssl bf16", "transformers fp32", goal=3.3, stretch=3.8),
            Comparison("hf_ssl bf16", "transformers bf16", goal=1.35, stretch=1.5),
            Comparison("hf_ssl fp32", "transformers fp32"),
        ),
        check=lambda: check_mae(ours, peer, images, noise, ("fp32", "bf16")),
        images=batch,
    )


def _mae(options: Options) -> Iterator[Experiment]:
    yield mae_experiment(MAEConfig(), MAE_BATCH)


def _mae_with_optimizer(options: Options) -> Iterator[Experiment]:
    config = MAEConfig()
    images, noise = mae_input(config, MAE_BATCH)
    ours, peer = mae_pair(config)
    fp32 = copy.deepcopy(ours)

    def adamw(model: nn.Module, **kwargs) -> torch.optim.Optimizer:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        # A rate of 0 costs the same and leaves both where the check found them equal.
        return torch.optim.AdamW(trained, lr=0.0, weight_decay=0.05, betas=(0.9, 0.95), **kwargs)

    yield Experiment(
        label=f"batch {MAE_BATCH}",
        sides=(
            Side("hf_ssl", "bf16", mae_step(ours, images, noise, "bf16", adamw(ours, fused=True))),
            Side("hf_ssl", "fp32", mae_step(fp32, images, noise, "fp32", adamw(fp32, fused=True))),
            Side("transformers", "fp32", mae_step(peer, images, noise, "fp32", adamw(peer))),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", "transformers fp32", goal=3.5, stretch=4.0),
            Comparison("hf_ssl fp32", "transformers fp32"),
        ),
        check=lambda: check_mae(ours, peer, images, noise, ("fp32", "bf16")),
        images=MAE_BATCH,
    )


def simclr_experiment(config: SimCLRConfig, batch: int, goal: float, stretch: float) -> Experiment:
    """Forward and backward of both; the peer's loop has no autocast."""
    ours, peer = simclr_pair(config)
    views = simclr_input(config, batch)
    return Experiment(
        label=f"{config.image_size} px, {batch} pairs",
        sides=(
            Side("hf_ssl", "bf16", simclr_step(ours, views, "bf16")),
            Side("hf_ssl", "fp32", simclr_step(ours, views, "fp32")),
            Side("lightly style", "fp32", simclr_step(peer, views, "fp32")),
        ),
        comparisons=(
            Comparison("hf_ssl bf16", "lightly style fp32", goal=goal, stretch=stretch),
            Comparison("hf_ssl fp32", "lightly style fp32"),
        ),
        check=lambda: check_simclr(ours, peer, views),
        images=batch,
    )


def _simclr(options: Options) -> Iterator[Experiment]:
    require_package("lightly")
    for size, goal in ((224, 2.2), (64, 2.0)):
        yield simclr_experiment(SimCLRConfig(image_size=size), SIMCLR_BATCHES[size], goal, stretch=2.6)


ROWS = (
    Row("C8", "step", "MAE ViT-B at 224 px, forward + backward", _mae),
    Row("C9", "step", "MAE ViT-B at 224 px, whole step with AdamW", _mae_with_optimizer),
    Row("C10", "step", "SimCLR ResNet-50, forward + backward", _simclr),
)
