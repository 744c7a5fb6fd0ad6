import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ssl.data import make_textures, open_source, wrap_dataset
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.hub.space.image_index import ImageIndex, index_images


@pytest.fixture(scope="module")
def index(space):
    return ImageIndex.read(space / "index")


@pytest.mark.parametrize("name", ["simclr", "mae-tiny"])
def test_nearest_to_a_training_image_is_itself(space, index, texture_folder, name):
    model = DemoModel(space / "models" / name)
    source = open_source(str(texture_folder), split="train")
    rows = source.dataset[:8]
    for image, label in zip(rows["image"], rows["label"], strict=True):
        features, _ = model.encode(model.view_picture(image["bytes"]))
        first, second = index.nearest(name, features[0], 2)
        assert first.similarity == pytest.approx(1, abs=1e-3)
        assert first.similarity >= second.similarity
        assert first.class_name == source.class_names[label]
        original = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"), float)
        shown = np.asarray(Image.open(io.BytesIO(first.picture)), float)
        assert np.abs(original - shown).mean() < 8, "another image, or a JPEG too coarse"


def test_similarities_are_cosines_in_falling_order(index):
    features = torch.randn(index.features["simclr"].shape[1], generator=torch.Generator().manual_seed(0))
    found = index.nearest("simclr", 7 * features, len(index.pictures) + 5)
    cosines = torch.cosine_similarity(index.features["simclr"], features[None])
    assert [image.similarity for image in found] == pytest.approx(
        cosines.sort(descending=True).values.tolist(), abs=1e-4
    )
    assert sorted(image.number for image in found) == list(range(len(index.pictures)))


def test_what_is_written_is_read(index, tmp_path):
    index.write(tmp_path / "index")
    again = ImageIndex.read(tmp_path / "index")
    assert (again.dataset, again.split, again.class_names) == (index.dataset, index.split, index.class_names)
    assert again.pictures == index.pictures and torch.equal(again.labels, index.labels)
    for name, features in index.features.items():
        torch.testing.assert_close(again.features[name], features, rtol=0, atol=1e-3)


def test_an_image_without_a_label_has_no_class():
    index = ImageIndex("mine", "train", None, torch.tensor([-1]), {"model": torch.ones(1, 1)}, [b""])
    assert index.nearest("model", torch.ones(1), 1)[0].class_name is None


@pytest.fixture
def labelled(space):
    """Index two pictures with these labels, of which the names of 20 classes are known."""

    def index_two(labels):
        textures = make_textures("train", 2)
        features = textures.features
        rows = textures.remove_columns("label").add_column("label", labels)
        source = wrap_dataset(rows, name="mine", split="train")
        source = dataclasses.replace(source, class_names=features["label"].names)
        return index_images([DemoModel(space / "models" / "simclr")], source, 2)

    return index_two


@pytest.mark.parametrize("label", [20, -2])
def test_a_label_that_is_no_class_is_refused(labelled, label):
    with pytest.raises(ValueError, match=f"'mine' .train. has an image of class {label} and names 20 classes; .* -1"):
        labelled([0, label])


def test_an_image_without_a_label_is_shown_beside_those_with_one(labelled):
    index = labelled([-1, 19])
    shown = index.nearest("simclr", index.features["simclr"][0], 2)
    assert {image.class_name for image in shown} == {None, index.class_names[19]}
