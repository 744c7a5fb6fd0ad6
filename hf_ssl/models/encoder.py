"""The one place that builds a timm encoder from a config, and says what its features are.

Both methods put an objective around a [timm](https://github.com/huggingface/pytorch-image-models) model without a
classifier: `forward_features` gives the tokens of a ViT, in image order behind its class token, or the last feature
map of a ResNet; `forward_head(pre_logits=True)` pools them to one vector per image.

timm is imported when a backbone is first checked or built.
"""

import difflib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput


@dataclass
class EncoderOutput(ModelOutput):
    """What an encoder gives.

    Args:
        last_hidden_state: (batch, 1 + patches, width) for a ViT, (batch, channels, height, width) for a ResNet.
        pooler_output: (batch, features), the vector that the linear probe sees.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None


def check_backbone(backbone: str, model_args: dict[str, Any]) -> None:
    """Check that a backbone is a timm architecture with arguments of the architecture, and nothing to be loaded.

    Configs are downloaded, and `timm.create_model` also takes places on the Hub and on disk, pickles among them.

    Args:
        backbone: name of a timm model.
        model_args: what `timm.create_model` is to be given beside.

    Raises:
        ValueError: if timm does not know `backbone` (the message names the nearest), it is a place, or an argument
            is not a plain value or is for timm's factory instead of the architecture.
    """
    import timm

    if set(backbone) & set("/\\:"):
        raise ValueError(
            f"backbone '{backbone}' is a place to load from; give the name of a timm architecture, like 'resnet50': "
            "weights come from the model's own file."
        )
    name = backbone.split(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists the names."
        raise ValueError(f"backbone '{backbone}' is not a timm model; {hint}")
    reserved = {"device", "dtype", "feature_cls", "features_only", "num_classes", "out_indices", "pruned"}
    for factory in (timm.create_model, timm.models.build_model_with_cfg):
        reserved.update(inspect.signature(factory).parameters)
    for argument, value in model_args.items():
        if argument in reserved:
            raise ValueError(
                f"backbone_kwargs holds '{argument}', which is not of the architecture but tells timm what to load or "
                "how to wrap it; leave it out."
            )
        if not _is_plain(value):
            raise ValueError(
                f"backbone_kwargs holds {value!r} for '{argument}'; give a number, a text, true, false, or a list or "
                "mapping of these."
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def create_encoder(backbone: str, model_args: dict[str, Any], num_classes: int = 0) -> nn.Module:
    """Build the timm model `backbone`, randomly initialised; with `num_classes=0` its output is the pooled features.

    Raises:
        ValueError: as `check_backbone`, or if this timm model does not take one of `model_args` or its value.
    """
    import timm

    check_backbone(backbone, model_args)
    try:
        return timm.create_model(backbone, pretrained=False, num_classes=num_classes, **model_args)
    except (AssertionError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"backbone '{backbone}' cannot be built with {model_args} ({error}); "
            "change backbone_kwargs to arguments that this timm model takes."
        ) from error


def choose_attention(model: nn.Module, device: torch.device, mixed_precision: str) -> None:
    """Let a model with timm's blocks attend in the way that is fastest where it is to run.

    That is torch's fused attention, but on a CPU in 16 bits plain products, as its backward pass is slow there. timm
    reads its own switch as it builds a block; this one holds for models that were built or loaded before.

    Args:
        model: any; one without attention stays as it is.
        device: what it runs on.
        mixed_precision: "no", "bf16" or "fp16", the autocast that it runs in.
    """
    fused = device.type != "cpu" or mixed_precision == "no"
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
