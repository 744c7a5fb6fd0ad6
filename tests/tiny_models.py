"""Tiny models of both methods, for tests of what holds for every method."""

import torch

from hf_ssl import MAEConfig, SimCLRConfig

TINY = {
    "simclr": lambda **kwargs: SimCLRConfig(
        **{
            "backbone": "resnet18",
            "backbone_kwargs": {"channels": [8, 8, 16, 16]},
            "image_size": 32,
            "projection_dim": 16,
            **kwargs,
        }
    ),
    "mae": lambda **kwargs: MAEConfig(
        **{
            "backbone": "vit_tiny_patch16_224",
            "backbone_kwargs": {"depth": 2, "embed_dim": 48, "num_heads": 3},
            "image_size": 32,
            "patch_size": 8,
            "decoder_hidden_size": 32,
            "decoder_num_layers": 1,
            "decoder_num_heads": 2,
            **kwargs,
        }
    ),
}


def pretraining_input(config, batch: int = 4) -> torch.Tensor:
    """Random normalised images in the shape that the method's pretraining model takes."""
    views = (2,) if isinstance(config, SimCLRConfig) else ()
    return torch.randn(batch, *views, 3, config.image_size, config.image_size)
