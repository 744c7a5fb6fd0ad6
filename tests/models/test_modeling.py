"""What of a model's folder is read."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining

REASON = "is a pickle, which can run code as it is read.*convert it with `hf-ssl import "


@pytest.fixture
def model(tiny_config):
    return AutoModelForPreTraining.from_config(tiny_config)


@pytest.fixture
def folder(model, tmp_path):
    folder = tmp_path / "model" / "pretraining"
    model.save_pretrained(folder)
    return folder


def loaders(model, folder):
    return (
        lambda **kwargs: AutoModelForPreTraining.from_pretrained(folder, **kwargs),
        lambda **kwargs: AutoModel.from_pretrained(folder.parent, subfolder="pretraining", **kwargs),
        lambda **kwargs: type(model).from_pretrained(folder, **kwargs),
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoint.pth"])
def test_a_pickle_alone_is_refused_with_the_way_out(model, folder, name):
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    for load in loaders(model, folder):
        with pytest.raises(ValueError, match=f"{name}' {REASON}"):
            load()
        with pytest.raises(ValueError, match="convert a pickle with `hf-ssl import`"):
            load(use_safetensors=False)


@pytest.mark.parametrize("name", ["weights.bin", "weights.pkl", "weights.PTH", "weights.bin.gz", "weights"])
def test_a_file_in_place_of_a_folder_is_safetensors_or_refused(model, folder, name, monkeypatch):
    torch.save(model.state_dict(), folder / name)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
    monkeypatch.chdir(folder.parent)
    for place, subfolder in ((folder / name, ""), (name, folder.name)):
        with pytest.raises(ValueError, match="may be a pickle, which can run code as it is read; convert it with "):
            type(model).from_pretrained(place, config=model.config, subfolder=subfolder)
    state = type(model).from_pretrained(folder / "model.safetensors", config=model.config).state_dict()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in state.items())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(model, folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    for load in loaders(model, folder):
        with pytest.raises(ValueError, match="safetensors files? of its folder; download the model anew"):
            load()


def test_an_adapter_on_the_hub_is_refused(hub, model, folder):
    api = HfApi()
    api.create_repo("org/model")
    api.upload_folder(folder_path=folder, repo_id="org/model", path_in_repo="pretraining")
    type(model).from_pretrained("org/model", subfolder="pretraining")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="pretraining/adapter_config.json", repo_id="org/model")
    with pytest.raises(ValueError, match="'org/model' holds adapter_config.json, an adapter to another model"):
        type(model).from_pretrained("org/model", subfolder="pretraining")


def test_safetensors_are_read_and_a_pickle_beside_them_is_not(model, folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    for load in loaders(model, folder):
        state = load(use_safetensors=True).state_dict()
        assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in state.items())
    with pytest.raises(ValueError, match="use_safetensors=False asks for a pickle"):
        AutoModel.from_pretrained(folder, use_safetensors=False)


def test_shards_in_the_folder_are_read(model, folder):
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists()
    state = AutoModelForPreTraining.from_pretrained(folder).state_dict()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in state.items())


@pytest.mark.parametrize("name", ["../../elsewhere.safetensors", "{absolute}", "sub/x.safetensors", "weights.bin"])
def test_an_index_names_no_file_outside_its_folder_and_no_pickle(model, folder, name):
    weights = load_file(folder / "model.safetensors")
    elsewhere = folder.parent.parent / "elsewhere.safetensors"
    shutil.move(folder / "model.safetensors", elsewhere)
    torch.save(weights, folder / "weights.bin")
    name = str(elsewhere) if name == "{absolute}" else name
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"nothing": torch.zeros(1)}, folder / "other.safetensors", metadata={"format": "pt"})
    for load in loaders(model, folder):
        with pytest.raises(ValueError, match="which is no safetensors file of its folder"):
            load()


def test_an_adapter_beside_the_weights_is_refused(model, folder):
    adapter = {"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    for load in loaders(model, folder):
        with pytest.raises(ValueError, match="an adapter to another model; load that model"):
            load()
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="is an adapter to another model"):
        type(model).from_pretrained(folder, adapter_kwargs={"_adapter_model_path": "somebody/adapter"})


def test_weights_can_be_given_without_a_folder(model):
    state = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict()).state_dict()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in state.items())
