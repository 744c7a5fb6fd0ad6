"""The configuration of masked autoencoders (He et al. 2021, https://arxiv.org/abs/2111.06377)."""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD, MethodConfig, MethodDescription
from hf_ssl.models.encoder import check_backbone


@strict
class MAEConfig(MethodConfig):
    """Configuration of [`MAEModel`] and [`MAEForPreTraining`]; the defaults are the paper's ViT-Base.

    Args:
        backbone: name of a timm ViT with a class token.
        backbone_kwargs: further arguments for `timm.create_model`, such as `{"depth": 6, "embed_dim": 192}`.
        image_size: height and width of the images, in pixels, a multiple of `patch_size`.
        patch_size: height and width of a patch, in pixels.
        mask_ratio: share of the patches that the encoder does not see, inside (0, 1).
        norm_pix_loss: whether each target patch is normalised by its own mean and variance, the paper's best choice.
        pooling: what `pooler_output` is: "mean" of the patch tokens or the "cls" token, both behind the last norm.
        decoder_type: "transformer", the paper's; or "mlp", a small decoder that sees, at every masked patch, the
            mean of the visible tokens and the patch's position.
        decoder_hidden_size: width of the decoder, a multiple of 4 for its sin-cos positions.
        decoder_num_layers: transformer blocks, or linear layers of the mlp.
        decoder_num_heads: attention heads of the transformer decoder.
        image_mean: channel means that images are normalised with, of values in [0, 1].
        image_std: channel standard deviations that images are normalised with.

    Raises:
        ValueError: if a value is not allowed; the message names the fix.
    """

    model_type = "mae"

    backbone: str = "vit_base_patch16_224"
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    patch_size: int = 16
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    pooling: str = "mean"
    decoder_type: str = "transformer"
    decoder_hidden_size: int = 512
    decoder_num_layers: int = 8
    decoder_num_heads: int = 16
    image_mean: list[float] = field(default_factory=lambda: list(IMAGE_MEAN))
    image_std: list[float] = field(default_factory=lambda: list(IMAGE_STD))

    description: ClassVar[MethodDescription] = MethodDescription(
        name="MAE",
        paper="https://arxiv.org/abs/2111.06377",
        pretraining_type="generative: an encoder sees a few patches, a decoder restores the rest",
        objective="mean squared error on the pixels of the masked patches",
        complexity="one pass over the visible patches only, and a light decoder over all",
        representation="texture, layout and parts: fine-tuning, dense tasks; less linearly separable",
    )

    def __post_init__(self, **kwargs):
        check_backbone(self.backbone, self.backbone_kwargs)
        if self.patch_size < 1 or self.image_size % self.patch_size:
            whole = max(self.image_size // max(self.patch_size, 1), 1) * self.patch_size
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}; "
                f"choose image_size {whole} or a patch_size that divides {self.image_size}."
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; choose a number inside (0, 1), the paper's is 0.75.")
        if not 0 < self.num_visible < self.num_patches:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} leaves {self.num_visible} of {self.num_patches} patches visible; take "
                "a ratio or a patch_size that leaves at least one patch visible and one masked."
            )
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling '{self.pooling}' is not known; choose 'mean' or 'cls'.")
        if self.decoder_type not in ("transformer", "mlp"):
            raise ValueError(f"decoder_type '{self.decoder_type}' is not known; choose 'transformer' or 'mlp'.")
        if self.decoder_num_layers < 1:
            raise ValueError(f"decoder_num_layers is {self.decoder_num_layers}; choose at least 1.")
        if self.decoder_hidden_size < 4 or self.decoder_hidden_size % 4:
            raise ValueError(
                f"decoder_hidden_size is {self.decoder_hidden_size}; choose a multiple of 4, for sin-cos positions."
            )
        if self.decoder_type == "transformer" and self.decoder_hidden_size % self.decoder_num_heads:
            raise ValueError(
                f"decoder_hidden_size {self.decoder_hidden_size} is not divisible by decoder_num_heads "
                f"{self.decoder_num_heads}; choose a number of heads that divides it."
            )
        super().__post_init__(**kwargs)

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_visible(self) -> int:
        """Patches of an image that the encoder sees; rounded down as in the official code."""
        return int(self.num_patches * (1 - self.mask_ratio) + 1e-6)

    @property
    def timm_model_args(self) -> dict[str, Any]:
        """Arguments of `timm.create_model` beside the architecture's name."""
        # The mean of normalised tokens, so that both poolings read the same `last_hidden_state`.
        pooling = {"global_pool": "avg", "fc_norm": False} if self.pooling == "mean" else {"global_pool": "token"}
        return {"img_size": self.image_size, "patch_size": self.patch_size, **pooling, **self.backbone_kwargs}


__all__ = ["MAEConfig"]
