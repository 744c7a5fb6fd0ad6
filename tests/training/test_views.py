"""What a run is trained on: the same views from originals and from caches, on the host and on the device."""

from itertools import islice
from types import SimpleNamespace

import datasets
import pytest
import torch

import hf_ssl.training.views
from hf_ssl.augment import ViewPolicy
from hf_ssl.data import open_source
from hf_ssl.data.cache import decode_all
from hf_ssl.data.order import BatchOrder
from hf_ssl.data.resident_loader import ResidentLoader
from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.views import TrainingViews

CPU = torch.device("cpu")
CONFIG = SimpleNamespace(image_size=24, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])


@pytest.fixture
def make_views(texture_folder, tmp_path, monkeypatch):
    """Views of 64 textures of 32 px, 8 batches an epoch."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)

    def make(*, on_host=True, rank=0, world_size=1, **changes):
        source = open_source(str(texture_folder), split="train")
        options = {"storage_size": 32, "batch_size": 8, "seed": 3, "views": [ViewPolicy(), ViewPolicy()], **changes}
        arguments = PretrainArguments(**options)
        return TrainingViews(source, arguments, CONFIG, CPU, on_host=on_host, rank=rank, world_size=world_size)

    return make


def take(views, count=12, position=0):
    return [batch.clone() for batch in islice(views.micro_batches(position), count)]


def test_caches_of_images_that_need_no_squeezing_change_nothing(make_views):
    originals = take(make_views(cache="none"))
    assert originals[0].shape == (8, 2, 3, 24, 24) and originals[0].dtype == torch.float32
    for cache in ("memory", "disk"):
        assert all(map(torch.equal, take(make_views(cache=cache)), originals))


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("on_host", [True, False])
def test_views_depend_on_their_position_in_the_run_alone(make_views, cache, on_host):
    whole = take(make_views(cache=cache, on_host=on_host))
    assert not torch.equal(whole[0], whole[8])
    for position in (1, 7, 8, 9):
        resumed = take(make_views(cache=cache, on_host=on_host), 3, position)
        assert all(map(torch.equal, resumed, whole[position : position + 3]))


def test_the_device_makes_the_hosts_views(make_views):
    on_host, on_device = take(make_views()), take(make_views(on_host=False))
    for ours, theirs in zip(on_host, on_device, strict=True):
        # Less than a level of 255, in units of the channels' deviations.
        assert (ours - theirs).abs().mean() < 1 / 255 / 0.2


def test_resident_images_give_the_views_of_the_loader(make_views):
    expected = take(make_views(on_host=False, cache="memory"))
    views = make_views(on_host=False)
    source = views.loader.source
    order = BatchOrder(source.num_rows, 8, seed=3)
    views.loader = ResidentLoader(source, decode_all(source, 32), order, CPU)
    assert all(map(torch.equal, take(views), expected))


def test_ranks_see_different_images_and_views(make_views, monkeypatch):
    monkeypatch.setattr(hf_ssl.training.views, "broadcast_object_list", lambda chosen: None)
    first, second = (take(make_views(rank=rank, world_size=2), 1)[0] for rank in (0, 1))
    assert not torch.equal(first, second)


def test_a_cache_is_chosen_by_the_epochs_that_are_run(make_views):
    assert make_views(epochs=1.5).cache == "none"
    assert make_views(epochs=5, max_steps=12).cache == "none"
    assert make_views(epochs=5, max_steps=16).cache == "memory"
