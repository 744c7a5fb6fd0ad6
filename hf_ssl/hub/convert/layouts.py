"""timm's ViTs and ResNets in the layouts of transformers' `ViTModel` and `ResNetModel`.

The names are those of the files on the Hub, as in google/vit-base-patch16-224 and microsoft/resnet-50: transformers
renames some of them as it loads, other ones in other versions, and these stay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import PreTrainedConfig, ResNetConfig, ViTConfig

# timm's modules to the stock model's; of several in a tuple, each holds its part of the rows.
VIT = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
VIT_BLOCK = {
    "norm1": "layernorm_before",
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
RESNET = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
RESNET_BLOCK = {
    "conv1": "layer.0.convolution",
    "bn1": "layer.0.normalization",
    "conv2": "layer.1.convolution",
    "bn2": "layer.1.normalization",
}
RESNET_BOTTLENECK = {**RESNET_BLOCK, "conv3": "layer.2.convolution", "bn3": "layer.2.normalization"}
RESNET_SHORTCUT = {"downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization"}

ACTIVATIONS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "QuickGELU": "quick_gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}

# Python for the pooled features, and the same as a function of the model's output.
CLASS_TOKEN = "outputs.pooler_output"
PATCH_MEAN = "outputs.last_hidden_state[:, 1:].mean(dim=1)"
MAP_MEAN = "outputs.pooler_output.flatten(1)"
POOLED: dict[str, Callable] = {
    CLASS_TOKEN: lambda outputs: outputs.pooler_output,
    PATCH_MEAN: lambda outputs: outputs.last_hidden_state[:, 1:].mean(dim=1),
    MAP_MEAN: lambda outputs: outputs.pooler_output.flatten(1),
}


@dataclass(frozen=True)
class Layout:
    """An encoder as a stock model.

    Attributes:
        config: what goes to config.json.
        weights: what goes to model.safetensors.
        pooled: Python that makes the pooled features of the stock model's `outputs`, a key of `POOLED`.
        has_classifier: whether the classifier is there too; the features of a mean over patches have no stock one.
    """

    config: PreTrainedConfig
    weights: dict[str, Tensor]
    pooled: str
    has_classifier: bool


def stock_layout(encoder: nn.Module, class_names: list[str] | None) -> Layout:
    """Lay a timm model out as the stock model of its kind.

    What the tables above do not name is refused here; what has no weights, such as an activation, only where the
    config has no word for it: compare the outputs.

    Args:
        encoder: a timm model.
        class_names: names of the outputs of its classifier; None if it has no classifier.

    Raises:
        ValueError: if the stock model has no place for a part of the encoder; the message names the part.
    """
    if isinstance(encoder, VisionTransformer):
        return _vit(encoder, class_names)
    if isinstance(encoder, ResNet):
        return _resnet(encoder, class_names)
    raise ValueError(
        f"The encoder is a {type(encoder).__name__} of timm, and only its VisionTransformer and ResNet have a "
        "counterpart in transformers that is loaded here; load the repository folder itself, with timm installed."
    )


def _vit(encoder: VisionTransformer, class_names: list[str] | None) -> Layout:
    if encoder.global_pool not in ("token", "avg") or encoder.pool_include_prefix:
        raise _refusal("ViTModel", f"pools by '{encoder.global_pool}', neither the class token nor the patches' mean")
    if not encoder.blocks:
        raise _refusal("ViTModel", "has no blocks")
    has_classifier = class_names is not None and encoder.global_pool == "token"
    modules = dict(VIT)
    for block in range(len(encoder.blocks)):
        for mine, stock in VIT_BLOCK.items():
            names = (stock,) if isinstance(stock, str) else stock
            modules[f"blocks.{block}.{mine}"] = tuple(f"encoder.layer.{block}.{name}" for name in names)
    weights = _rename(_without_classifier(encoder), modules, "ViTModel")
    # The stock model has a linear layer behind the class token: the identity, as ours has none.
    width = encoder.embed_dim
    weights |= {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    first = encoder.blocks[0]
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=first.attn.num_heads,
        intermediate_size=first.mlp.fc1.out_features,
        hidden_act=_activation(first.mlp.act),
        layer_norm_eps=encoder.norm.eps,
        image_size=_side(encoder.patch_embed.img_size),
        patch_size=_side(encoder.patch_embed.patch_size),
        num_channels=encoder.patch_embed.proj.in_channels,
        qkv_bias=first.attn.qkv.bias is not None,
        pooler_act="linear",
    )
    if has_classifier:
        weights = {f"vit.{name}": weight for name, weight in weights.items()} | _classifier(encoder, "classifier")
    _describe(config, "ViT", class_names if has_classifier else None)
    pooled = CLASS_TOKEN if encoder.global_pool == "token" else PATCH_MEAN
    return Layout(config, weights, pooled, has_classifier)


def _resnet(encoder: ResNet, class_names: list[str] | None) -> Layout:
    if encoder.global_pool.pool_type != "avg":
        raise _refusal("ResNetModel", f"pools by '{encoder.global_pool.pool_type}', not by the mean")
    stages = [encoder.get_submodule(f"layer{stage}") for stage in range(1, len(encoder.feature_info))]
    modules = dict(RESNET)
    for stage, blocks in enumerate(stages):
        for index, block in enumerate(blocks):
            table = RESNET_BOTTLENECK if isinstance(block, Bottleneck) else RESNET_BLOCK
            table = table | (RESNET_SHORTCUT if block.downsample is not None else {})
            for mine, stock in table.items():
                modules[f"layer{stage + 1}.{index}.{mine}"] = f"encoder.stages.{stage}.layers.{index}.{stock}"
    weights = _rename(_without_classifier(encoder), modules, "ResNetModel")
    # The stock model's hidden_act leaves out the activations inside a block.
    if not isinstance(encoder.act1, nn.ReLU):
        raise _refusal("ResNetModel", f"has the activation {type(encoder.act1).__name__}, not ReLU")
    config = ResNetConfig(
        num_channels=encoder.conv1.in_channels,
        embedding_size=encoder.conv1.out_channels,
        hidden_sizes=[info["num_chs"] for info in encoder.feature_info[1:]],
        depths=[len(blocks) for blocks in stages],
        layer_type="bottleneck" if isinstance(stages[0][0], Bottleneck) else "basic",
    )
    has_classifier = class_names is not None
    if has_classifier:
        weights = {f"resnet.{name}": weight for name, weight in weights.items()} | _classifier(encoder, "classifier.1")
    _describe(config, "ResNet", class_names)
    return Layout(config, weights, MAP_MEAN, has_classifier)


def _without_classifier(encoder: nn.Module) -> dict[str, Tensor]:
    classifier = {id(tensor) for tensor in encoder.get_classifier().state_dict(keep_vars=True).values()}
    state = encoder.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in classifier}


def _classifier(encoder: nn.Module, name: str) -> dict[str, Tensor]:
    return {f"{name}.{key}": weight for key, weight in encoder.get_classifier().state_dict().items()}


def _rename(state: dict[str, Tensor], modules: Mapping[str, str | tuple[str, ...]], model: str) -> dict[str, Tensor]:
    """The state dict under the stock model's names; every tensor and every module must have its counterpart."""
    renamed, lacking = {}, []
    for mine, stock in modules.items():
        names = (stock,) if isinstance(stock, str) else stock
        found = [name for name in state if name == mine or name.rpartition(".")[0] == mine]
        if not found:
            lacking.append(mine)
        for name in found:
            tensor = state.pop(name)
            parts = tensor.chunk(len(names)) if len(names) > 1 else [tensor]
            for target, part in zip(names, parts, strict=True):
                renamed[target + name.removeprefix(mine)] = part.clone(memory_format=torch.contiguous_format)
    if state:
        raise _refusal(model, f"has '{min(state)}', for which there is no place")
    if lacking:
        raise _refusal(model, f"lacks '{lacking[0]}'")
    return renamed


def _activation(module: nn.Module) -> str:
    name = type(module).__name__
    if name not in ACTIVATIONS:
        raise _refusal("ViTModel", f"has the activation {name}, not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _refusal(model: str, difference: str) -> ValueError:
    return ValueError(
        f"The encoder is none that the stock {model} can hold: it {difference}; load the repository folder itself, "
        "with timm installed."
    )


def _side(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _describe(config: PreTrainedConfig, kind: str, class_names: list[str] | None) -> None:
    config.architectures = [f"{kind}Model" if class_names is None else f"{kind}ForImageClassification"]
    config.dtype = "float32"
    if class_names is not None:
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: index for index, name in enumerate(class_names)}


__all__ = ["POOLED", "Layout", "stock_layout"]
