"""SimCLR: encoder, projection head and NT-Xent (Chen et al. 2020, https://arxiv.org/abs/2002.05709, section 2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_ssl.losses.nt_xent import NTXentLoss
from hf_ssl.models.encoder import EncoderOutput, create_encoder
from hf_ssl.models.modeling import MethodPreTrainedModel
from hf_ssl.models.simclr.configuration_simclr import SimCLRConfig


@dataclass
class SimCLROutput(ModelOutput):
    """What pretraining gives.

    Args:
        loss: NT-Xent of the batch, scalar float32; `None` if it was not asked for.
        projections: (batch, 2, projection_dim), before normalisation.
    """

    loss: torch.FloatTensor | None = None
    projections: torch.FloatTensor | None = None


class SimCLRPreTrainedModel(MethodPreTrainedModel):
    """The encoder f(·), shared by both classes, and its initialisation."""

    config_class = SimCLRConfig

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.encoder = create_encoder(config.backbone, config.timm_model_args)
        if self.encoder.pretrained_cfg.get("fixed_input_size"):
            size = self.encoder.patch_embed.img_size[0]
            if size != config.image_size:
                raise ValueError(
                    f"backbone '{config.backbone}' is built for {size} px and image_size is {config.image_size}; set "
                    f"backbone_kwargs to {{'img_size': {config.image_size}}}, with a patch_size that divides it."
                )

    def to_timm(self, num_classes: int = 0) -> nn.Module:
        """The plain timm model that holds this encoder's weights, with a zero classifier if `num_classes` > 0."""
        model = create_encoder(self.config.backbone, self.config.timm_model_args, num_classes)
        model.load_state_dict(self.encoder.state_dict(), strict=num_classes == 0)
        return model.to(self.device, self.dtype).train(self.training)

    def initialize_weights(self) -> None:
        """Initialise whatever a checkpoint did not bring; `from_pretrained` and `post_init` call this."""
        # timm knows how each of its models starts: the parts of a fresh one fill what is lacking.
        with torch.device("cpu"):
            fresh = create_encoder(self.config.backbone, self.config.timm_model_args)
        self._fresh_parts = dict(zip(self.encoder.modules(), fresh.modules(), strict=True))
        super().initialize_weights()
        del self._fresh_parts

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module in self._fresh_parts:
            fresh = self._fresh_parts[module]
            for mine, theirs in zip(module.parameters(recurse=False), fresh.parameters(recurse=False), strict=True):
                init.copy_(mine, theirs)
            for mine, theirs in zip(module.buffers(recurse=False), fresh.buffers(recurse=False), strict=True):
                init.copy_(mine, theirs)
        elif isinstance(module, nn.Linear):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable | None = None, **kwargs: Any
    ) -> None:
        self.encoder.set_grad_checkpointing(enable)


class SimCLRModel(SimCLRPreTrainedModel):
    """The encoder that SimCLR trained, h = f(x); the projection head is thrown away (paper, section 2.1)."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^projection_head\."]

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> EncoderOutput:
        """Encode images.

        Args:
            pixel_values: (batch, 3, height, width), normalised by the config's `image_mean` and `image_std`.
        """
        features = self.encoder.forward_features(pixel_values)
        return EncoderOutput(
            last_hidden_state=features, pooler_output=self.encoder.forward_head(features, pre_logits=True)
        )


class SimCLRForPreTraining(SimCLRPreTrainedModel):
    """Encoder, projection head g(·) and NT-Xent."""

    # Nothing to draw beyond the views themselves.
    illustration_columns: ClassVar[tuple[str, ...]] = ()
    supports_gradient_cache: ClassVar[bool] = True

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.projection_head = ProjectionHead(
            self.encoder.num_features,
            config.projection_hidden_size or self.encoder.num_features,
            config.projection_dim,
            config.projection_layers,
            config.projection_norm,
        )
        self.nt_xent = NTXentLoss(config.temperature)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, return_loss: bool = True, **kwargs: Any) -> SimCLROutput:
        """Contrast two views of each image with those of all others, over all processes.

        Both views pass through the encoder together, so batch norm sees the statistics of all 2·batch views.

        Args:
            pixel_values: (batch, 2, 3, height, width), two views of each image, normalised.
            return_loss: whether to compute the loss, or the projections only.

        Raises:
            ValueError: if there are not exactly two views of each image.
        """
        if pixel_values.dim() != 5 or pixel_values.shape[1] != 2:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; SimCLR takes (batch, 2, 3, height, width), "
                "two views of each image."
            )
        projections = self.projection_head(self.encoder(pixel_values.flatten(0, 1))).unflatten(0, (-1, 2))
        return SimCLROutput(loss=self.projection_loss(projections) if return_loss else None, projections=projections)

    def projection_loss(self, projections: torch.Tensor) -> torch.Tensor:
        """NT-Xent of (batch, 2, projection_dim) projections, against those of all processes."""
        return self.nt_xent(projections[:, 0], projections[:, 1])


class ProjectionHead(nn.Sequential):
    """g(·): linear layers with ReLU between them, with batch norm behind every layer, the hidden ones, or none.

    The official code normalises every layer, without a bias or shift behind the last (`model_util.py`).
    """

    def __init__(self, in_features: int, hidden_size: int, out_features: int, num_layers: int, norm: str):
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(nn.Linear(in_features, hidden_size, bias=norm == "none"))
            if norm != "none":
                layers.append(nn.BatchNorm1d(hidden_size))
            layers.append(nn.ReLU(inplace=True))
            in_features = hidden_size
        layers.append(nn.Linear(in_features, out_features, bias=norm != "all"))
        if norm == "all":
            layers.append(nn.BatchNorm1d(out_features))
        super().__init__(*layers)


__all__ = ["SimCLRForPreTraining", "SimCLRModel", "SimCLROutput", "SimCLRPreTrainedModel"]
