"""Runs that start from others' weights."""

import pytest
from safetensors.torch import load_file
from tiny_models import TINY
from transformers import AutoModelForPreTraining

import hf_ssl  # noqa: F401
from hf_ssl.training.initialization import create_model


def save(model, folder):
    model.save_pretrained(folder)
    return folder


def test_a_run_starts_from_the_weights_given(tiny_config, tmp_path):
    trained = AutoModelForPreTraining.from_config(tiny_config)
    run = tmp_path / "run"
    save(trained, run / "pretraining")
    for place in (run, run / "pretraining"):
        model, name = create_model(tiny_config, str(place))
        assert name == place.name
        for key, weight in trained.state_dict().items():
            assert model.state_dict()[key].equal(weight)
    assert create_model(tiny_config, None)[1] is None


def test_the_run_s_own_config_counts(tiny_config, tmp_path):
    save(AutoModelForPreTraining.from_config(tiny_config), tmp_path / "base")
    config = type(tiny_config)(**{**tiny_config.to_dict(), "image_mean": [0.1, 0.2, 0.3]})
    model, _ = create_model(config, str(tmp_path / "base"))
    assert model.config.image_mean == [0.1, 0.2, 0.3]


def test_what_is_missing_outside_the_encoder_stays_random(tmp_path):
    config = TINY["mae"]()
    save(AutoModelForPreTraining.from_config(config), tmp_path / "base")
    deeper = type(config)(**{**config.to_dict(), "decoder_num_layers": config.decoder_num_layers + 1})
    model, _ = create_model(deeper, str(tmp_path / "base"))
    saved = load_file(tmp_path / "base" / "model.safetensors")
    new = [key for key in model.state_dict() if key not in saved]
    assert new and all(key.startswith("decoder_blocks.") for key in new)
    assert all(model.state_dict()[key].isfinite().all() for key in new)
    assert all(model.state_dict()[key].equal(weight) for key, weight in saved.items())


def test_another_method_or_backbone_is_refused(tmp_path):
    save(AutoModelForPreTraining.from_config(TINY["simclr"]()), tmp_path / "simclr")
    with pytest.raises(ValueError, match="'.*simclr' lacks the encoder's weights|is a simclr model"):
        create_model(TINY["mae"](), str(tmp_path / "simclr"))
    wide = TINY["simclr"]()
    wide.backbone_kwargs = {**wide.backbone_kwargs, "channels": [8, 8, 16, 32]}
    with pytest.raises(ValueError, match="do not fit this run's model; give it the backbone and the sizes"):
        create_model(wide, str(tmp_path / "simclr"))


def test_no_such_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder here and no ORG/NAME"):
        create_model(TINY["mae"](), str(tmp_path / "nowhere"))
