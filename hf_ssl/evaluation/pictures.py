"""Pictures of a run: the augmented views it was trained on, and what its model draws, such as reconstructions."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import AutoModelForPreTraining

from hf_ssl.augment import ViewPolicy, center_view, make_views, render_view
from hf_ssl.data import ImageLoader
from hf_ssl.evaluation.results import read_results
from hf_ssl.models.opening import open_config

ROWS = 4


def draw_pictures(run: Path, loader: ImageLoader) -> list[Path]:
    """Draw the first images of a loader into RUN/pictures.

    `views.png` has each image beside two draws of every view policy of the run; where the model draws
    something (its class has `illustration_columns`), `illustration.png` has that.
    """
    arguments = read_results(run / "results.json")["pretraining"]["arguments"]
    pretraining = run / "pretraining"
    model = AutoModelForPreTraining.from_pretrained(
        pretraining, config=open_config(pretraining), trust_remote_code=False
    ).eval()
    config = model.config
    batch = next(iter(loader.epoch(0)))
    images, sizes = batch.images[:ROWS], batch.sizes[:ROWS]
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    plain = render_view(images, center_view(sizes, 1.0), config.image_size, zero, one)

    policies = [ViewPolicy(**policy) for policy in arguments["views"]] * (2 if len(arguments["views"]) == 1 else 1)
    generator = torch.Generator().manual_seed(0)
    draws = make_views(images, sizes, policies * 2, generator, config.image_size, zero, one)
    folder = run / "pictures"
    folder.mkdir(exist_ok=True)
    titles = ["image", *(f"view {number + 1}" for number in range(draws.shape[1]))]
    written = [_draw_grid(torch.cat([plain[:, None], draws], dim=1), titles, folder / "views.png")]
    if model.illustration_columns:
        mean, std = torch.tensor(config.image_mean)[:, None, None], torch.tensor(config.image_std)[:, None, None]
        torch.manual_seed(0)
        drawn = model.illustrate((plain - mean) / std)
        written.append(_draw_grid(drawn, list(model.illustration_columns), folder / "illustration.png"))
    return written


def _draw_grid(pictures: torch.Tensor, titles: list[str], path: Path) -> Path:
    """Draw (rows, columns, 3, H, W) pictures in [0, 1] under column titles."""
    rows, columns = pictures.shape[:2]
    figure = Figure(figsize=(1.3 * columns, 1.3 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            axis = axes[row][column]
            axis.imshow(pictures[row, column].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(titles[column], fontsize=9)
    figure.savefig(path, dpi=110)
    return path
