"""What a config, downloaded maybe, may say."""

import json

import pytest
import timm.data
from transformers import AutoConfig, AutoModel

from hf_ssl.models.configuration import IMAGE_MEAN, IMAGE_STD


@pytest.fixture
def write(tiny_config, tmp_path):
    """Writes the config of a folder with something changed."""

    def write(**changes):
        content = {**tiny_config.to_diff_dict(), **changes}
        (tmp_path / "config.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_what_is_saved_can_be_read(tiny_config, tmp_path):
    tiny_config.id2label, tiny_config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
    tiny_config.save_pretrained(tmp_path)
    for loaded in (type(tiny_config).from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert loaded.to_diff_dict() == tiny_config.to_diff_dict()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "somebody/kernel"),  # code from the Hub
        ("_attn_implementation", "somebody/kernel"),
        ("quantization_config", {"quant_method": "torchao"}),
        ("transformers_weights", "../../adapter_model.bin"),
        ("fusion_config", {"patch_embeddings": True}),
        ("timm_model_arg", {}),
    ],
)
def test_a_key_that_is_not_the_methods_is_refused(write, tiny_config, key, value):
    folder = write(**{key: value})
    for config_class in (AutoConfig, type(tiny_config)):
        with pytest.raises(ValueError, match=f"config.json has the key '{key}', which is none of .*; remove it"):
            config_class.from_pretrained(folder)


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_code_beside_a_config_is_not_run(write, trust_remote_code):
    classes = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    folder = write(auto_map=classes)
    (folder / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    for auto in (AutoConfig, AutoModel):
        with pytest.raises(ValueError, match="config.json has the key 'auto_map'"):
            auto.from_pretrained(folder, trust_remote_code=trust_remote_code)
    assert not list(folder.rglob("ran"))


def test_keywords_of_the_caller_are_not_of_the_file(write):
    config = AutoConfig.from_pretrained(write(), attn_implementation="eager", image_std=[1.0, 1.0, 1.0])
    assert config._attn_implementation == "eager" and config.image_std == [1.0, 1.0, 1.0]


def test_the_default_pixels_are_imagenets():
    assert tuple(IMAGE_MEAN) == timm.data.IMAGENET_DEFAULT_MEAN
    assert tuple(IMAGE_STD) == timm.data.IMAGENET_DEFAULT_STD


@pytest.mark.parametrize("value", ["32", None, 32.5])
def test_a_value_of_the_wrong_type_is_refused_in_one_sentence(tiny_config, value):
    with pytest.raises(ValueError, match="config.json does not hold what .*Config takes .*'image_size'") as caught:
        type(tiny_config).from_dict({"image_size": value})
    assert "\n" not in str(caught.value)
