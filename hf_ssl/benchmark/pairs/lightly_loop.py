"""The peer of whole runs: a recipe of ours trained with lightly's transforms, loss and data loading, as it documents.

Model, optimiser, schedule, batch and precision are the recipe's; what differs is where the views come from (PIL in
worker processes), a pass for each view, and the loss.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hf_ssl import SimCLRConfig, SimCLRForPreTraining
from hf_ssl.augment import ViewPolicy
from hf_ssl.benchmark.measuring import NotMeasuredError
from hf_ssl.benchmark.pairs.common import autocast
from hf_ssl.benchmark.pairs.simclr import LightlyStyleSimCLR
from hf_ssl.data import ImageSource, open_source
from hf_ssl.models.encoder import choose_attention
from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.optimizers import create_optimizer, create_schedule


class LightlyViews(Dataset):
    """Two views of each image by lightly's SimCLRTransform, set to a policy of ours."""

    def __init__(self, source: ImageSource, policy: ViewPolicy, config: SimCLRConfig):
        from lightly.transforms import SimCLRTransform

        self.rows, self.column = source.dataset, source.image_column
        self.transform = SimCLRTransform(
            input_size=config.image_size,
            cj_prob=policy.jitter_prob,
            cj_bright=policy.brightness,
            cj_contrast=policy.contrast,
            cj_sat=policy.saturation,
            cj_hue=policy.hue,
            min_scale=policy.crop_scale[0],
            random_gray_scale=policy.grayscale_prob,
            gaussian_blur=policy.blur_prob,
            hf_prob=policy.flip_prob,
            normalize={"mean": config.image_mean, "std": config.image_std},
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(2, 3, S, S) float32."""
        image = Image.open(io.BytesIO(self.rows[index][self.column]["bytes"])).convert("RGB")
        return torch.stack(self.transform(image))


def lightly_pretrain(
    config: SimCLRConfig,
    arguments: PretrainArguments,
    device: torch.device,
    after_epoch: Callable[[int, LightlyStyleSimCLR], bool],
    num_workers: int | None = None,
    max_steps: int | None = None,
) -> None:
    """Train until `after_epoch`, which is given the number of epochs and the model, returns True, or to the end.

    Args:
        config: of our model, whose initial weights the peer starts from.
        arguments: of the run; data, views, optimisation and precision are used.
        device: to train on.
        after_epoch: called after each epoch.
        num_workers: processes that make views; one for each core if not given.
        max_steps: ends an epoch early.
    """
    source = open_source(
        str(arguments.dataset),
        split=arguments.train_split,
        image_column=arguments.image_column,
        label_column=None,
    )
    loader = DataLoader(
        LightlyViews(source, arguments.views[0], config),
        batch_size=arguments.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)) if num_workers is None else num_workers,
        pin_memory=device.type == "cuda",
        persistent_workers=num_workers != 0,
    )
    torch.manual_seed(arguments.seed)
    model = LightlyStyleSimCLR(SimCLRForPreTraining(config)).to(device).train()
    choose_attention(model, device, arguments.mixed_precision)
    if arguments.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer(model, arguments, arguments.peak_learning_rate(arguments.batch_size))
    total_steps = int(arguments.epochs * len(loader))
    schedule = create_schedule(optimizer, arguments, total_steps, len(loader))
    steps = 0
    for epoch in range(int(arguments.epochs)):
        for views in loader:
            with autocast("bf16" if arguments.mixed_precision == "bf16" else "fp32", device.type):
                loss = model(views.to(device, non_blocking=True))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            steps += 1
            if steps == max_steps:
                break
        if after_epoch(epoch + 1, model) or steps == max_steps:
            return


def recipe_dataset(dataset: Path | None) -> str:
    """The folder as the recipes' `--dataset` takes it."""
    if dataset is None:
        raise NotMeasuredError("needs --dataset FOLDER of labelled images, such as tiny-imagenet-100")
    return str(dataset)
