"""SimCLR's configuration (Chen et al. 2020, https://arxiv.org/abs/2002.05709)."""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD, MethodConfig, MethodDescription
from hf_ssl.models.encoder import check_backbone


@strict
class SimCLRConfig(MethodConfig):
    """Configuration of [`SimCLRModel`] and [`SimCLRForPreTraining`].

    Args:
        backbone: name of a timm model, by default the paper's ResNet-50.
        backbone_kwargs: arguments for `timm.create_model`, such as `{"stem_type": "deep"}` for a ResNet or
            `{"img_size": 64, "patch_size": 8}` for a ViT.
        image_size: height and width of the views, in pixels. Small images need no other stem: an unmodified ResNet
            that sees 64 px images at 128 px has the resolution of one with a 3×3 stride-2 stem and no max-pool.
        projection_hidden_size: width of the projection head's hidden layers; `None` is the encoder's width.
        projection_dim: width of the vectors that the loss compares.
        projection_layers: number of linear layers of the projection head; 2 in the paper, 3 in SimCLR v2.
        projection_norm: where the head has batch norm: "all" layers as in the official code, "hidden" layers only,
            or "none" as in solo-learn.
        temperature: τ of NT-Xent; the paper uses 0.1 for long ImageNet runs and 0.5 elsewhere.
        image_mean: channel means that views are normalised with, of values in [0, 1].
        image_std: channel standard deviations that views are normalised with.
    """

    model_type = "simclr"

    backbone: str = "resnet50"
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    projection_hidden_size: int | None = None
    projection_dim: int = 128
    projection_layers: int = 2
    projection_norm: str = "all"
    temperature: float = 0.5
    image_mean: list[float] = field(default_factory=lambda: list(IMAGE_MEAN))
    image_std: list[float] = field(default_factory=lambda: list(IMAGE_STD))

    description: ClassVar[MethodDescription] = MethodDescription(
        name="SimCLR",
        paper="https://arxiv.org/abs/2002.05709",
        pretraining_type="contrastive: two augmented views of an image attract, views of other images repel",
        objective="NT-Xent: cross-entropy over the cosine similarities of all views of the batch, divided by τ",
        complexity="two encoder passes per image; similarities grow with the square of the batch",
        representation="linearly separable classes: linear probes, nearest-neighbour search, few labels",
    )

    def __post_init__(self, **kwargs):
        check_backbone(self.backbone, self.backbone_kwargs)
        if self.projection_norm not in ("all", "hidden", "none"):
            raise ValueError(
                f"projection_norm '{self.projection_norm}' is not known; choose 'all', 'hidden' or 'none'."
            )
        if self.projection_layers < 1:
            raise ValueError(
                f"projection_layers is {self.projection_layers}; a projection head has at least 1 layer, 2 is usual."
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; choose a positive number, 0.1 to 0.5 is usual.")
        super().__post_init__(**kwargs)

    @property
    def timm_model_args(self) -> dict[str, Any]:
        """Arguments of `timm.create_model` beside the architecture's name."""
        return dict(self.backbone_kwargs)


__all__ = ["SimCLRConfig"]
