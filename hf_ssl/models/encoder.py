"""The one place that builds a timm encoder from a config, and says what its features are.

Both methods put an objective around a [timm](https://github.com/huggingface/pytorch-image-models) model without a
classifier: `forward_features` gives the tokens of a ViT, in image order behind its class token, or the last feature
map of a ResNet; `forward_head(pre_logits=True)` pools them to one vector per image.
"""

import difflib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from transformers.utils import ModelOutput

IMAGE_MEAN: list[float] = list(IMAGENET_DEFAULT_MEAN)
IMAGE_STD: list[float] = list(IMAGENET_DEFAULT_STD)


@dataclass(frozen=True)
class MethodDescription:
    """What the comparison table and a model card say of a method, beside what they measure."""

    name: str
    paper: str
    pretraining_type: str
    objective: str
    complexity: str
    representation: str


@dataclass
class EncoderOutput(ModelOutput):
    """What an encoder gives.

    Args:
        last_hidden_state: (batch, 1 + patches, width) for a ViT, (batch, channels, height, width) for a ResNet.
        pooler_output: (batch, features), the vector that the linear probe sees.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None


def check_backbone(backbone: str) -> None:
    """Raise a `ValueError` that names the nearest models unless timm knows `backbone`."""
    name = backbone.split(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists the names."
        raise ValueError(f"backbone '{backbone}' is not a timm model; {hint}")


def create_encoder(backbone: str, model_args: dict[str, Any], num_classes: int = 0) -> nn.Module:
    """Build the timm model `backbone`, randomly initialised; with `num_classes=0` its output is the pooled features.

    Raises:
        ValueError: if `model_args` holds an argument that this timm model does not take.
    """
    try:
        return timm.create_model(backbone, pretrained=False, num_classes=num_classes, **model_args)
    except TypeError as error:
        raise ValueError(
            f"backbone '{backbone}' cannot be built with {model_args} ({error}); "
            "change backbone_kwargs to arguments that this timm model takes."
        ) from error
