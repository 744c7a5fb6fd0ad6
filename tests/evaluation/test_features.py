import copy

import numpy as np
import pytest
import torch
from torch import nn

from hf_ssl.evaluation.features import extract_all
from hf_ssl.evaluation.linear_probe import fit_linear_probe
from hf_ssl.evaluation.probe_arguments import ProbeArguments

VIEW = {"output_size": 16, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "device": "cpu"}
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]


def extract_one(encoder, loader, **view):
    return extract_all({"it": encoder}, loader, raw_pixels=False, **view)["it"]


def test_the_encoder_is_left_as_it_was(make_loader, pictures, small_encoder):
    before = copy.deepcopy(small_encoder.state_dict())
    extract_one(small_encoder.train(), make_loader(pictures, LABELS), **VIEW)
    for name, tensor in small_encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in small_encoder.parameters())


def test_the_encoder_runs_in_eval_mode(make_loader, pictures, small_encoder):
    loader = make_loader(pictures, LABELS)
    in_training = extract_one(small_encoder.train(), loader, **VIEW)
    in_eval = extract_one(small_encoder.eval(), loader, **VIEW)
    assert torch.equal(in_training.features, in_eval.features)


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_its_mode_back(make_loader, pictures, small_encoder, fails):
    small_encoder.train()
    small_encoder.layers[1].eval()
    if fails:
        small_encoder.layers.append(nn.Linear(3, 3))  # does not fit onto 8 features
        with pytest.raises(RuntimeError):
            extract_one(small_encoder, make_loader(pictures, LABELS), **VIEW)
    else:
        extract_one(small_encoder, make_loader(pictures, LABELS), **VIEW)
    modes = [module.training for module in small_encoder.layers]
    assert modes[:3] == [True, False, True]
    assert small_encoder.training


def test_features_do_not_depend_on_the_batch_size(make_loader, pictures, small_encoder):
    one, four, all_at_once = (
        extract_one(small_encoder, make_loader(pictures, LABELS, batch_size=size), **VIEW) for size in (1, 4, 11)
    )
    assert one.features.shape == (11, 8)
    torch.testing.assert_close(four.features, one.features)
    torch.testing.assert_close(all_at_once.features, one.features)


def test_rows_are_in_the_order_of_the_source(make_loader, pooled_encoder):
    levels = np.arange(11, dtype=np.uint8) * 20
    pictures = np.broadcast_to(levels[:, None, None, None], (11, 16, 16, 3)).copy()
    mean_pixel = pooled_encoder(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    extracted = extract_one(mean_pixel, make_loader(pictures, LABELS), **VIEW)
    expected = (torch.from_numpy(levels)[:, None] / 255 - torch.tensor(VIEW["mean"])) / torch.tensor(VIEW["std"])
    torch.testing.assert_close(extracted.features, expected)
    assert extracted.labels.tolist() == LABELS


def test_a_probe_can_be_fitted_to_the_features(make_loader, pictures, small_encoder):
    extracted = extract_one(small_encoder, make_loader(pictures, LABELS), **VIEW)
    assert not extracted.features.requires_grad
    fit_linear_probe(extracted.features, extracted.labels, 3, ProbeArguments(weight_decay=0.1))


def test_autocast_features_are_float32_and_close(make_loader, pictures, small_encoder):
    loader = make_loader(pictures, LABELS)
    exact = extract_one(small_encoder, loader, **VIEW).features
    rounded = extract_one(small_encoder, loader, **VIEW, autocast_dtype=torch.bfloat16).features
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)


def test_pixels_are_those_of_the_picture(make_loader, pictures):
    extracted = extract_all({}, make_loader(pictures, LABELS), **VIEW)["raw_pixels"]
    expected = torch.from_numpy(pictures).permute(0, 3, 1, 2).flatten(1) / 255
    torch.testing.assert_close(extracted.features, expected)
    assert extracted.labels.tolist() == LABELS


def test_pixels_of_large_views_are_scaled_down(make_loader):
    # Blocks of 2 × 2 equal pixels: scaled down by 2, each block's inner part keeps its level.
    levels = np.random.default_rng(0).integers(0, 256, (3, 3), dtype=np.uint8)
    picture = np.kron(levels, np.ones((32, 32), np.uint8))[:64, :64]
    pictures = np.repeat(picture[None, :, :, None], 3, axis=3)
    extracted = extract_all({}, make_loader(pictures, [0]), **{**VIEW, "output_size": 64})["raw_pixels"]
    assert extracted.features.shape == (1, 3 * 32 * 32)
    image = extracted.features.view(3, 32, 32)
    assert image[:, 8, 8].tolist() == pytest.approx([levels[0, 0] / 255] * 3)
    assert image[:, 24, 8].tolist() == pytest.approx([levels[1, 0] / 255] * 3)


def test_together_encoders_give_what_each_gives_alone(make_loader, pictures, small_encoder, pooled_encoder):
    loader, decoded = make_loader(pictures, LABELS), []
    mean_pixel = pooled_encoder(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    alone = [extract_one(encoder, loader, **VIEW) for encoder in (small_encoder, mean_pixel)]
    pixels = extract_all({}, loader, **VIEW)["raw_pixels"]

    epoch = loader.epoch
    loader.epoch = lambda number: (decoded.append(len(batch.labels)) or batch for batch in epoch(number))
    together = extract_all({"small": small_encoder, "mean": mean_pixel}, loader, **VIEW)
    assert list(together) == ["small", "mean", "raw_pixels"]
    for extracted, expected in zip(together.values(), [*alone, pixels], strict=True):
        assert torch.equal(extracted.features, expected.features) and extracted.labels.tolist() == LABELS
    assert sum(decoded) == len(LABELS)


def test_a_loader_that_drops_images_is_refused(make_loader, pictures, small_encoder):
    with pytest.raises(ValueError, match="8 of the 11 images.*drop_last=False"):
        extract_one(small_encoder, make_loader(pictures, LABELS, drop_last=True), **VIEW)
