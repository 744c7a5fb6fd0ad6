"""Views made in the loader's threads, and large batches that several threads fill."""

import datasets
import numpy as np
import pytest
import torch
from numbered_images import encode

from hf_ssl.augment import HostViews, ViewPolicy
from hf_ssl.data import ImageLoader, loader, wrap_dataset

POLICIES = [ViewPolicy(), ViewPolicy(crop_scale=(0.5, 1), solarize_prob=1)]


def noise(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 24 + row % 3, 3), dtype=np.uint8) for row in range(count)]


def source_of(images, broken=()):
    rows = [b"not an image" if row in broken else encode(image) for row, image in enumerate(images)]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    columns = {"image": [{"bytes": row, "path": None} for row in rows], "label": list(range(len(rows)))}
    return wrap_dataset(datasets.Dataset.from_dict(columns, features=features), name="noise", split="train")


def seeded(index):
    return torch.Generator().manual_seed(index)


def load(source, batches=3, position=0, **options):
    options = {"batch_size": 4, "image_size": 16, "renderer": HostViews(POLICIES, 16, seeded), **options}
    endless = ImageLoader(source, **options).endless(position)
    loaded = [next(endless) for _ in range(batches)]
    endless.close()
    return loaded


def render(images, rows, index):
    views, render_rows = HostViews(POLICIES, 16, seeded).start(index, len(rows))
    chosen = [images[row] for row in rows]
    render_rows(chosen, torch.tensor([image.shape[:2] for image in chosen]), slice(0, len(rows)))
    return views


def test_a_batchs_views_are_those_of_its_images_and_its_position_in_the_run():
    images = noise(10)
    for index, batch in enumerate(load(source_of(images), batches=5)):
        assert batch.images.shape == (4, 2, 16, 16, 3)
        rows = batch.labels.tolist()
        assert torch.equal(batch.images, render(images, rows, index))
        assert batch.sizes.tolist() == [list(images[row].shape[:2]) for row in rows]


def test_a_broken_image_has_views_of_the_next_image_of_its_own():
    images = noise(8)
    first, second = load(source_of(images, broken={2, 3, 7}), batches=2, shuffle=False)
    assert first.labels.tolist() == [0, 1, 0, 0] and second.labels.tolist() == [4, 5, 6, 4]
    assert torch.equal(first.images, render(images, [0, 1, 0, 0], 0))
    assert torch.equal(second.images, render(images, [4, 5, 6, 4], 1))


@pytest.mark.parametrize("renders", [True, False])
def test_pieces_and_threads_change_nothing(renders, monkeypatch):
    source = source_of(noise(30), broken={4, 11})
    options = {} if renders else {"renderer": None}
    whole = load(source, batch_size=15, num_threads=1, **options)
    monkeypatch.setattr(loader, "PIECE_IMAGES", 4)
    monkeypatch.setattr(HostViews, "max_threads", None)
    for batch, same in zip(load(source, batch_size=15, num_threads=3, **options), whole, strict=True):
        assert torch.equal(batch.images, same.images)
        assert torch.equal(batch.labels, same.labels) and torch.equal(batch.sizes, same.sizes)


def test_endless_batches_are_those_of_the_epochs_from_any_position():
    source = source_of(noise(10))
    images = ImageLoader(source, batch_size=4, image_size=16, seed=5)
    epochs = [batch for epoch in range(4) for batch in images.epoch(epoch)]
    for position in (0, 1, 2, 5):
        resumed = load(source, position=position, seed=5, renderer=None)
        for batch, same in zip(resumed, epochs[position:], strict=False):
            assert torch.equal(batch.images, same.images) and torch.equal(batch.labels, same.labels)
