"""One model of the app and what it makes of a picture, without Gradio and without asking for a method's name."""

import copy
import dataclasses
import threading
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import MODEL_FOR_PRETRAINING_MAPPING, AutoModelForPreTraining, PreTrainedConfig

import hf_ssl  # noqa: F401  registers the models with the Auto classes
from hf_ssl.augment import center_view, render_view
from hf_ssl.data import decode_image
from hf_ssl.evaluation.compare import ENCODERS
from hf_ssl.evaluation.results import read_results, rows_by_encoder
from hf_ssl.hub.card.markdown import plain
from hf_ssl.models.encoder import create_encoder
from hf_ssl.models.opening import open_config

# The slider's ends; a config may allow less.
MASK_PERCENTAGES = range(5, 96)


class DemoModel:
    """A model of a repository folder, with the preprocessing that its probe was measured with.

    Args:
        repository: a folder that `assemble_repository` wrote, with weights.

    Attributes:
        name: of the repository.
        method: "SimCLR", "MAE", …
        backbone: timm's name of the encoder.
        evaluation: the section of results.json.
        storage_size: side in pixels of the square that pictures are squeezed to when they are decoded.
        illustration_columns: what `reconstruct` gives, one title for each picture; empty if the model draws nothing.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: results.json is not valid.
    """

    def __init__(self, repository: Path):
        results = read_results(repository / "results.json")
        self.name = repository.resolve().name
        self.method: str = results["model"]["method"]
        self.backbone: str = results["model"]["backbone"]
        self.evaluation: dict[str, Any] = results["evaluation"]
        self.config = open_config(repository, "pretraining")
        self.storage_size: int = results["pretraining"]["arguments"]["storage_size"] or self.config.image_size
        # The root's weights: the encoder, and the probe as its head.
        self.encoder = create_encoder(
            self.config.backbone, self.config.timm_model_args, self.evaluation["num_classes"]
        ).eval()
        self.encoder.load_state_dict(load_file(repository / "model.safetensors"))
        model_class = MODEL_FOR_PRETRAINING_MAPPING[type(self.config)]
        self.illustration_columns = model_class.illustration_columns
        self._mask_field: str | None = model_class.illustration_mask if self.illustration_columns else None
        if self.illustration_columns:
            self.pretraining = AutoModelForPreTraining.from_pretrained(
                repository, subfolder="pretraining", config=self.config, trust_remote_code=False
            ).eval()
        self._random_numbers = threading.Lock()

    def view(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """The central square that the probe saw.

        Args:
            images: uint8 (B, 3, S, S), whole pictures squeezed to `storage_size`.
            sizes: int64 (B, 2), their heights and widths before.

        Returns:
            float32 (B, 3, image_size, image_size), normalised.
        """
        parameters = center_view(sizes, self.evaluation["crop_fraction"])
        return render_view(images, parameters, self.config.image_size, self.config.image_mean, self.config.image_std)

    def view_picture(self, data: bytes) -> torch.Tensor:
        """The view (1, 3, image_size, image_size) of one picture file.

        Raises:
            UndecodableImageError: the bytes are no picture that can be read.
        """
        image, size = decode_image(data, self.storage_size)
        return self.view(torch.from_numpy(image).permute(2, 0, 1)[None], torch.tensor([size]))

    @torch.inference_mode()
    def encode(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, D) of the encoder and scores (B, classes) of the probe, of views (B, 3, H, W)."""
        tokens = self.encoder.forward_features(views)
        return self.encoder.forward_head(tokens, pre_logits=True), self.encoder.forward_head(tokens)

    def name_classes(self, scores: torch.Tensor, count: int) -> list[tuple[str, float]]:
        """The `count` classes with the highest scores (classes,), and their softmax."""
        shares, classes = scores.softmax(0).topk(min(count, len(scores)))
        names = self.evaluation["class_names"]
        return [(names[index], share) for index, share in zip(classes.tolist(), shares.tolist(), strict=True)]

    def describe_accuracy(self) -> str:
        """How often the linear probe was right on the test images, beside its baselines, in Markdown."""
        evaluation, rows = self.evaluation, rows_by_encoder(self.evaluation)
        row = rows.pop("pretrained")
        low, high = row["accuracy_ci95"]
        compared = [f"{ENCODERS[encoder]}: {baseline['accuracy']:.1%}" for encoder, baseline in rows.items()]
        compared.append(f"chance: {1 / evaluation['num_classes']:.1%}")
        return (
            f"Measured: right on **{row['accuracy']:.1%}** of {evaluation['num_test']:,} test images of "
            f"{plain(evaluation['dataset'])} (95 % interval {low:.1%} to {high:.1%}), with the right class among the "
            f"first five on {row['top5_accuracy']:.1%}. For comparison: {', '.join(compared)}."
        )

    @property
    def mask_percentage(self) -> int | None:
        """Share of the patches that pretraining masks, in percent; None for a model without a mask."""
        return None if self._mask_field is None else round(100 * getattr(self.config, self._mask_field))

    @property
    def mask_percentages(self) -> tuple[int, int]:
        """The lowest and the highest percentage that the config allows, within 5 and 95."""

        def allowed(percentage: int) -> bool:
            try:
                self._config_masking(percentage)
            except ValueError:
                return False
            return True

        return next(filter(allowed, MASK_PERCENTAGES)), next(filter(allowed, reversed(MASK_PERCENTAGES)))

    def reconstruct(self, view: torch.Tensor, mask_percentage: int | None, seed: int) -> list[Image.Image]:
        """What the model draws of a view (1, 3, H, W), one picture for each of `illustration_columns`.

        With the same seed a higher percentage masks what a lower one masks, and more.

        Args:
            view: from `view_picture`.
            mask_percentage: share of the patches to mask; None for a model without a mask.
            seed: of the model's random numbers.

        Raises:
            ValueError: the config does not allow this percentage.
        """
        model = self.pretraining
        if mask_percentage is not None:
            # A shallow copy shares the weights; its config is its own, whatever runs beside it.
            model = copy.copy(model)
            model.config = self._config_masking(mask_percentage)
        with self._random_numbers, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            [pictures] = model.illustrate(view)
        return [_to_picture(picture) for picture in pictures]

    def _config_masking(self, percentage: int) -> PreTrainedConfig:
        # A new config, not a changed one: it checks what it is given.
        return dataclasses.replace(self.config, **{self._mask_field: percentage / 100})


def _to_picture(picture: torch.Tensor) -> Image.Image:
    """A picture (3, H, W) in [0, 1]."""
    return Image.fromarray((picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
