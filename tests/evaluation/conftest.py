import io

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

from hf_ssl.data import ImageLoader, wrap_dataset


def encode_png(pixels):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


class PooledEncoder(nn.Module):
    """Any module from images to (B, D) with the interface of the package's encoders."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, pixel_values):
        return ModelOutput(pooler_output=self.layers(pixel_values))


@pytest.fixture(scope="session")
def make_loader():
    """From uint8 pictures (N, H, W, 3) and labels to a loader that gives them in order."""

    def make(pictures, labels, num_classes=None, **arguments):
        num_classes = num_classes or max(labels) + 1
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=num_classes))
        rows = {"image": [encode_png(picture) for picture in pictures], "label": list(labels)}
        source = wrap_dataset(datasets.Dataset.from_dict(rows, features=features), name="pictures", split="validation")
        arguments = {"batch_size": 4, "image_size": pictures[0].shape[0], "shuffle": False, **arguments}
        return ImageLoader(source, **{"drop_last": False, **arguments})

    return make


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def small_encoder():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return PooledEncoder(layers)


@pytest.fixture(scope="session")
def pooled_encoder():
    return PooledEncoder
