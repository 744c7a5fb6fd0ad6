"""The check that views are distributed as the peer's notices what a loader could get wrong."""

import dataclasses

import pytest
import torch

from hf_ssl.augment import HostViews, ViewPolicy, normalize_views
from hf_ssl.benchmark.measuring import CheckFailedError
from hf_ssl.benchmark.rows.loader import check_distributions, describe_views, source
from hf_ssl.data import ImageLoader
from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD

# As much blur as at 224 pixels.
POLICY = ViewPolicy(blur_kernel_fraction=0.5)


def views_of(policy: ViewPolicy, seed: int) -> dict[str, torch.Tensor]:
    renderer = HostViews([policy], 24, lambda index: torch.Generator().manual_seed(index + seed))
    loader = ImageLoader(source(64, 640), batch_size=320, image_size=64, renderer=renderer)
    return describe_views(
        torch.cat([normalize_views(batch.images, IMAGE_MEAN, IMAGE_STD) for batch in loader.epoch(0)])
    )


@pytest.fixture(scope="module")
def expected():
    return views_of(POLICY, seed=100)


def test_the_same_policy_passes(expected):
    assert "alike" in check_distributions(views_of(POLICY, seed=200), expected)


@pytest.mark.parametrize(
    "changes", [{"brightness": 0.4}, {"jitter_prob": 0}, {"blur_prob": 0}, {"hue": 0.5}, {"crop_scale": (0.05, 0.1)}]
)
def test_another_policy_does_not(expected, changes):
    with pytest.raises(CheckFailedError, match="standard errors apart"):
        check_distributions(views_of(dataclasses.replace(POLICY, **changes), seed=200), expected)
