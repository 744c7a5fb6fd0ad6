"""The check that views are distributed as the peer's notices what a loader could get wrong."""

import pytest
import torch

from hf_ssl.augment import HostViews, ViewPolicy, normalize_views
from hf_ssl.benchmark.measuring import CheckFailedError
from hf_ssl.benchmark.rows.loader import check_distributions, describe_views
from hf_ssl.data import ImageLoader, open_source


def views_of(policy: ViewPolicy, seed: int) -> dict[str, torch.Tensor]:
    renderer = HostViews([policy], 24, lambda index: torch.Generator().manual_seed(index + seed))
    loader = ImageLoader(open_source("embedded", split="validation"), batch_size=200, image_size=32, renderer=renderer)
    batches = loader.epoch(0)
    views = torch.cat([normalize_views(next(batches).images, [0.5] * 3, [0.2] * 3) for _ in range(3)])
    batches.close()
    return describe_views(views)


@pytest.fixture(scope="module")
def expected():
    return views_of(ViewPolicy(), seed=100)


def test_the_same_policy_passes(expected):
    assert "alike" in check_distributions(views_of(ViewPolicy(), seed=200), expected)


@pytest.mark.parametrize(
    "changes", [{"brightness": 0.4}, {"jitter_prob": 0}, {"blur_prob": 0}, {"hue": 0}, {"crop_scale": (0.5, 1)}]
)
def test_another_policy_does_not(expected, changes):
    with pytest.raises(CheckFailedError, match="standard errors apart"):
        check_distributions(views_of(ViewPolicy(**changes), seed=200), expected)
