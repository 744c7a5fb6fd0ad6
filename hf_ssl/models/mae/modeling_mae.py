"""Masked autoencoders (He et al. 2021, https://arxiv.org/abs/2111.06377, sections 3 and A.1).

Parameters bear the names of the official implementation (`models_mae.py` of facebookresearch/mae), which are timm's
for the encoder, so that its checkpoints load by name. Shapes: B images, L patches, K visible patches, M = L − K masked
patches, D width, p patch size. In masks 0 is visible and 1 is masked.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import LayerScale, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_ssl.models.encoder import EncoderOutput, create_encoder
from hf_ssl.models.mae.configuration_mae import MAEConfig
from hf_ssl.models.mae.patches import patchify, sincos_position_embedding, unpatchify
from hf_ssl.models.modeling import MethodPreTrainedModel

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


@dataclass
class MAEOutput(ModelOutput):
    """What pretraining gives.

    Args:
        loss: mean squared error over the masked patches, scalar float32.
        logits: (B, L, p²·3), the predicted pixels of every patch, in the space of the targets.
        mask: (B, L), 1 where the encoder did not see the patch.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None


class MAEPreTrainedModel(MethodPreTrainedModel):
    """The encoder, at the top level as in the official code and shared by both classes, and its initialisation."""

    config_class = MAEConfig
    fixed_parameters: ClassVar[tuple[str, ...]] = ("pos_embed", "decoder_pos_embed")

    def __init__(self, config: MAEConfig):
        super().__init__(config)
        vit = create_encoder(config.backbone, config.timm_model_args)
        plain = isinstance(vit, VisionTransformer) and type(vit.patch_embed) is PatchEmbed
        if not plain or vit.num_prefix_tokens != 1 or vit.no_embed_class:
            raise ValueError(
                f"backbone '{config.backbone}' is not a plain ViT with one class token; choose one such as "
                "'vit_tiny_patch16_224', 'vit_small_patch16_224' or 'vit_base_patch16_224'."
            )
        self.patch_embed = vit.patch_embed
        self.cls_token = vit.cls_token
        self.pos_embed = nn.Parameter(vit.pos_embed.detach(), requires_grad=False)
        self.norm_pre = vit.norm_pre
        self.blocks = vit.blocks
        self.norm = vit.norm
        self.gradient_checkpointing = False

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pass patches through the encoder, behind the class token.

        Args:
            tokens: (B, K, D), embedded patches with their positions, of the whole image or some of them.

        Returns:
            (B, 1 + K, D), in the same order, behind the last norm.
        """
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = self.norm_pre(torch.cat([cls, tokens], dim=1))
        return self.norm(self.run_blocks(self.blocks, tokens))

    def run_blocks(self, blocks: nn.Sequential, tokens: torch.Tensor) -> torch.Tensor:
        """Pass tokens through transformer blocks, checkpointing activations if that is enabled."""
        for block in blocks:
            if self.gradient_checkpointing and self.training:
                tokens = self._gradient_checkpointing_func(block, tokens)
            else:
                tokens = block(tokens)
        return tokens

    def to_timm(self, num_classes: int = 0) -> nn.Module:
        """The plain timm ViT that holds this encoder's weights, with a random classifier if `num_classes` > 0."""
        model = create_encoder(self.config.backbone, self.config.timm_model_args, num_classes)
        mine, theirs = self.state_dict(), model.state_dict()
        model.load_state_dict({name: mine.get(name, weight) for name, weight in theirs.items()})
        return model.to(self.device, self.dtype).train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # "We use xavier_uniform to initialize all Transformer blocks" (paper, A.1); the rest as the official code.
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            bound = (6 / (module.weight[0].numel() + module.out_channels)) ** 0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, LayerScale):
            init.constant_(module.gamma, module.init_values)
        if module is self:
            init.normal_(self.cls_token, std=0.02)
            init.copy_(self.pos_embed, sincos_position_embedding(self.pos_embed.shape[-1], self.config.num_patches))


class MAEModel(MAEPreTrainedModel):
    """The encoder that MAE trained, on whole images."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^decoder_", r"^mask_token$"]

    def __init__(self, config: MAEConfig):
        super().__init__(config)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> EncoderOutput:
        """Encode images without a mask.

        Args:
            pixel_values: (B, 3, image_size, image_size), normalised by the config's `image_mean` and `image_std`.

        Returns:
            `last_hidden_state` (B, 1 + L, D), patches in image order; `pooler_output` (B, D), the mean of the patch
            tokens or the class token, as the config's `pooling` says.
        """
        tokens = self.encode(self.patch_embed(pixel_values) + self.pos_embed[:, 1:])
        pooled = tokens[:, 1:].mean(dim=1) if self.config.pooling == "mean" else tokens[:, 0]
        return EncoderOutput(last_hidden_state=tokens, pooler_output=pooled)


class MAEForPreTraining(MAEPreTrainedModel):
    """Encoder, decoder and reconstruction loss."""

    illustration_columns: ClassVar[tuple[str, ...]] = ("input", "masked", "reconstructed")
    # The config's share of the patches that `illustrate` masks.
    illustration_mask: ClassVar[str | None] = "mask_ratio"

    def __init__(self, config: MAEConfig):
        super().__init__(config)
        width, patch_dim = config.decoder_hidden_size, config.patch_size**2 * 3
        self.decoder_embed = nn.Linear(self.norm.normalized_shape[0], width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width), requires_grad=False)
        if config.decoder_type == "transformer":
            self.decoder_blocks = nn.Sequential(
                *(
                    Block(width, config.decoder_num_heads, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm)
                    for _ in range(config.decoder_num_layers)
                )
            )
            self.decoder_norm = LayerNorm(width)
            self.decoder_pred = nn.Linear(width, patch_dim)
        else:
            hidden = [width] + [4 * width] * (config.decoder_num_layers - 1)
            self.decoder_blocks = nn.Sequential(
                *(nn.Sequential(nn.Linear(before, after), nn.GELU()) for before, after in pairwise(hidden))
            )
            self.decoder_norm = nn.Identity()
            self.decoder_pred = nn.Linear(hidden[-1], patch_dim)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None, **kwargs: Any) -> MAEOutput:
        """Mask patches, encode the visible ones, predict the masked ones.

        Args:
            pixel_values: (B, 3, image_size, image_size), normalised.
            noise: (B, L), the patches with the smallest values stay visible; `None` draws it uniformly.

        Raises:
            ValueError: if the images are of another size.
        """
        size = self.config.image_size
        if pixel_values.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; this model takes (batch, 3, {size}, {size}), "
                "other sizes need a model with another image_size."
            )
        if noise is None:
            noise = torch.rand(len(pixel_values), self.config.num_patches, device=pixel_values.device)
        visible, masked = self.mask_patches(noise)
        patches = patchify(pixel_values, self.config.patch_size)
        predicted = self.decode(self.encode(self.embed_visible(patches, visible)), visible)
        mask = torch.zeros(noise.shape, device=noise.device).scatter_(1, masked, 1.0)
        return MAEOutput(loss=self.reconstruction_loss(patches, predicted, masked), logits=predicted, mask=mask)

    def mask_patches(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per-image random masking (paper, section 3): indices of the visible (B, K) and masked patches (B, M)."""
        order = noise.argsort(dim=1)
        return order[:, : self.config.num_visible], order[:, self.config.num_visible :]

    def embed_visible(self, patches: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Embed some of (B, L, p²·3) patches, with their positions: (B, K, D).

        What `patch_embed` would give for them; the convolution would embed all patches of the image.
        """
        embedding = self.patch_embed.proj
        weight = embedding.weight.permute(0, 2, 3, 1).flatten(1)
        tokens = self.patch_embed.norm(F.linear(_take(patches, visible), weight, embedding.bias))
        return tokens + self.pos_embed[0, 1:][visible]

    def decode(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Predict the pixels of every patch.

        Args:
            tokens: (B, 1 + K, D), the encoder's output for the class and the visible patches.
            visible: (B, K), which patches those are.

        Returns:
            (B, L, p²·3)
        """
        tokens = self.decoder_embed(tokens)
        blank = self.mask_token
        if self.config.decoder_type == "mlp":
            # Without attention a masked patch would know nothing of its image: it is told the visible ones' mean.
            blank = blank + tokens[:, 1:].mean(dim=1, keepdim=True)
        places = F.pad(visible + 1, (1, 0))[..., None].expand_as(tokens)
        full = blank.to(tokens.dtype).expand(len(tokens), 1 + self.config.num_patches, -1)
        full = full.scatter(1, places, tokens) + self.decoder_pos_embed
        if self.config.decoder_type == "mlp":
            full = self.decoder_blocks(full)
        else:
            full = self.decoder_norm(self.run_blocks(self.decoder_blocks, full))
        return self.decoder_pred(full)[:, 1:]

    def reconstruction_loss(
        self, patches: torch.Tensor, predicted: torch.Tensor, masked: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of (B, L, p²·3) predictions over the masked patches (B, M), in float32."""
        target = _take(patches, masked).float()
        if self.config.norm_pix_loss:
            # Layer norm, which divides by p²·3 where the official code's variance divides by p²·3 − 1.
            size = target.shape[-1]
            correction = (size - 1) / size
            target = F.layer_norm(target, (size,), eps=1e-6 * correction) * correction**0.5
        return F.mse_loss(_take(predicted, masked).float(), target)

    @torch.no_grad()
    def illustrate(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """The reconstruction picture of a batch: input, masked input, reconstruction.

        Where the loss is on normalised pixels, predictions are scaled by the true patch's mean and deviation. Visible
        patches of the reconstruction are the input's.

        Args:
            pixel_values: (B, 3, image_size, image_size), normalised.
            noise: (B, L), as in `forward`; `None` draws it uniformly.

        Returns:
            (B, 3, 3, image_size, image_size) float32 in [0, 1]: the columns of `illustration_columns`.
        """
        output = self(pixel_values, noise=noise)
        patches = patchify(pixel_values.float(), self.config.patch_size)
        predicted = output.logits.float()
        if self.config.norm_pix_loss:
            predicted = predicted * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
        masked = output.mask[..., None].bool()
        columns = [patches, patches.masked_fill(masked, 0.0), torch.where(masked, predicted, patches)]
        pictures = torch.stack([unpatchify(column, self.config.patch_size) for column in columns], dim=1)
        mean = pictures.new_tensor(self.config.image_mean)[:, None, None]
        std = pictures.new_tensor(self.config.image_std)[:, None, None]
        return (pictures * std + mean).clamp(0, 1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.mask_token, std=0.02)
            init.copy_(
                self.decoder_pos_embed,
                sincos_position_embedding(self.config.decoder_hidden_size, self.config.num_patches),
            )


def _take(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Of (B, L, D) tokens those at (B, K) `indices`, as (B, K, D)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


__all__ = ["MAEForPreTraining", "MAEModel", "MAEOutput", "MAEPreTrainedModel"]
