import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

from hf_ssl.data import ImageLoader, open_source
from hf_ssl.evaluation.features import extract_all
from hf_ssl.hub.repository.assemble import assemble_repository
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.models.mae.modeling_mae import MAEForPreTraining


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def to_png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_the_classes_are_those_of_the_repository_s_pipeline(whole_view_runs, name, picture, tmp_path):
    repository = assemble_repository(whole_view_runs[name], tmp_path / "model")
    model = DemoModel(repository)
    _, scores = model.encode(model.view_picture(to_png(picture)))
    answers = pipeline("image-classification", model=str(repository))(picture, top_k=5)
    named = model.name_classes(scores[0], 5)
    assert [label for label, _ in named] == [answer["label"] for answer in answers]
    assert [share for _, share in named] == pytest.approx([answer["score"] for answer in answers], abs=1e-4)


def test_the_accuracy_is_the_linear_probe_s_beside_its_baselines(repository):
    model = DemoModel(repository)
    said = model.describe_accuracy()
    rows = [row for row in model.evaluation["results"] if row["classifier"] == "linear_probe"]
    assert [f"{row['accuracy']:.1%}" in said for row in rows] == [True] * 3
    knn = [row for row in model.evaluation["results"] if row["classifier"] == "knn"]
    assert knn and not any(f"{row['accuracy']:.1%}" in said for row in knn)
    assert said.count("random encoder") == said.count("raw pixels") == 1


def test_a_picture_s_features_are_those_of_the_evaluation(run, repository, texture_folder):
    model = DemoModel(repository)  # its probe saw 0.875 of the shorter side
    source = open_source(str(texture_folder), split="train").head(8)
    loader = ImageLoader(source, batch_size=8, image_size=32, shuffle=False)
    config = model.config
    evaluated = extract_all(
        {"it": AutoModel.from_pretrained(run / "pretraining")},
        loader,
        output_size=config.image_size,
        mean=config.image_mean,
        std=config.image_std,
        crop_fraction=0.875,
        device="cpu",
    )["it"]
    pictures = [image["bytes"] for image in source.dataset["image"]]
    features = torch.cat([model.encode(model.view_picture(data))[0] for data in pictures])
    torch.testing.assert_close(features, evaluated.features, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def mae(repositories):
    return DemoModel(repositories["mae-mean"])  # 16 patches


def masked_patches(model, pictures):
    """Which of the 4 x 4 patches show the config's mean colour, as masked ones do."""
    masked = np.asarray(pictures[model.illustration_columns.index("masked")], float) / 255
    patches = masked.reshape(4, 8, 4, 8, 3).swapaxes(1, 2).reshape(16, 64, 3)
    return np.abs(patches - model.config.image_mean).max(axis=(1, 2)) < 1 / 255


def test_a_reconstruction_masks_the_stated_share(mae, picture):
    view = mae.view_picture(to_png(picture))
    masks = {share: masked_patches(mae, mae.reconstruct(view, share, seed=0)) for share in (25, 75)}
    assert {share: mask.mean() for share, mask in masks.items()} == {25: 0.25, 75: 0.75}
    # With one seed the slider only adds patches to the mask.
    assert (masks[75] | ~masks[25]).all()
    assert mae.pretraining.config.mask_ratio == mae.config.mask_ratio == 0.75


def test_a_reconstruction_shows_the_input_where_it_is_visible(mae, picture):
    pictures = mae.reconstruct(mae.view_picture(to_png(picture)), 50, seed=0)
    shown, masked, reconstructed = (np.asarray(each, int) for each in pictures)
    visible = np.kron(~masked_patches(mae, pictures).reshape(4, 4), np.ones((8, 8))).astype(bool)
    assert visible.mean() == 0.5
    assert np.array_equal(shown[visible], masked[visible])
    assert np.array_equal(shown[visible], reconstructed[visible])
    assert not np.array_equal(shown[~visible], reconstructed[~visible])


def test_the_seed_chooses_the_mask(mae, picture):
    view = mae.view_picture(to_png(picture))
    first, again, other = (masked_patches(mae, mae.reconstruct(view, 50, seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_slider_s_ends_are_what_the_config_allows(mae, picture):
    view = mae.view_picture(to_png(picture))
    low, high = mae.mask_percentages
    assert low == 5 and masked_patches(mae, mae.reconstruct(view, high, 0)).sum() == 15
    with pytest.raises(ValueError, match="leaves 0 of 16 patches visible"):
        mae.reconstruct(view, high + 1, 0)
    assert low <= mae.mask_percentage <= high


@pytest.mark.parametrize(("field", "drawn"), [(None, None), ("norm_pix_loss", 100)])
def test_the_model_class_says_what_masks_its_picture(repositories, monkeypatch, field, drawn):
    # No field has a name that the app knows.
    monkeypatch.setattr(MAEForPreTraining, "illustration_mask", field)
    assert DemoModel(repositories["mae-mean"]).mask_percentage == drawn


def test_a_model_without_a_picture_has_neither_columns_nor_a_mask(repositories):
    model = DemoModel(repositories["simclr"])
    assert model.illustration_columns == () and model.mask_percentage is None
