"""What may be in the config.json of a model that is opened: nobody is asked for leave to run its code."""

import io
import json
import pickle
import sys

import pytest
from tiny_models import TINY
from transformers import AutoConfig, AutoModelForPreTraining

from hf_ssl.evaluation.pictures import draw_pictures
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.probe_run import DataArguments, probe_run
from hf_ssl.hub.convert.export import export_transformers
from hf_ssl.hub.doors import table
from hf_ssl.hub.doors.stock import Repository
from hf_ssl.hub.repository import assemble, validate
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.models.opening import open_config
from hf_ssl.training.initialization import create_model


class Evil:
    def __reduce__(self):
        return open, ("ran", "w")


@pytest.fixture(params=["auto_map", "bert and a pickle"])
def hostile(request, tmp_path, monkeypatch):
    """A folder whose pretraining/ brings code, and a user who says yes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    folder = tmp_path / "model"
    (folder / "pretraining").mkdir(parents=True)
    if request.param == "auto_map":
        content = {"model_type": "zzz", "auto_map": {"AutoConfig": "x.Y", "AutoModelForPreTraining": "x.Z"}}
        (folder / "pretraining" / "x.py").write_text("open('ran', 'w')\nraise SystemExit\n")
    else:
        content = {"model_type": "bert"}
        (folder / "pretraining" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    (folder / "pretraining" / "config.json").write_text(json.dumps(content))
    return folder


ARGUMENTS = {"dataset": "embedded", "train_split": "train", "eval_split": "validation", "seed": 0, "storage_size": 32}
OPENERS = {
    "config": lambda folder: open_config(folder, "pretraining"),
    "training": lambda folder: create_model(TINY["mae"](), str(folder)),
    "export": lambda folder: export_transformers(str(folder), folder / "exported"),
    "card": lambda folder: assemble._write_encoder(folder, {"num_classes": 2}, folder),
    "publish": lambda folder: validate._check_config(folder, {"evaluation": {}}),
    "encoder door": lambda folder: table._open_encoder(Repository(str(folder))),
    "model door": lambda folder: table.pretraining_model(Repository(str(folder)), None),
    "evaluate": lambda folder: probe_run(folder, DataArguments(), ProbeArguments(), "command"),
    "pictures": lambda folder: draw_pictures(folder, None),
    "space": DemoModel,
}


@pytest.mark.parametrize("name", OPENERS)
def test_nothing_of_an_unknown_model_runs_and_nobody_is_asked(name, hostile, tmp_path, capsys, monkeypatch):
    results = {"model": {"method": "", "backbone": ""}, "pretraining": {"arguments": ARGUMENTS}, "evaluation": {}}
    for module in ("evaluation.probe_run", "evaluation.pictures", "hub.space.demo_model"):
        monkeypatch.setattr(f"hf_ssl.{module}.read_results", lambda path: results)
    (hostile / "results.json").write_text("{}")
    if name == "publish":
        (hostile / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has the model_type '(zzz|bert)', which is none of hf_ssl's") as caught:
        OPENERS[name](hostile)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read() == "y\n" * 20
    assert "custom code" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("content", ["{", "[]", "\xff", '{"model_type": ["mae"]}', "{}", "[" * 100_000])
def test_a_config_that_is_none(content, tmp_path):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json of '.*(take the model anew|that hf_ssl has written)\.$"):
        open_config(tmp_path)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no config.json in"):
        open_config(tmp_path, "pretraining")


def test_the_config_is_that_of_transformers(tiny_config, tmp_path):
    AutoModelForPreTraining.from_config(tiny_config).save_pretrained(tmp_path / "inner")
    opened = open_config(tmp_path, "inner")
    assert type(opened) is type(tiny_config)
    expected = AutoConfig.from_pretrained(tmp_path / "inner").to_dict()
    assert opened.to_dict() == expected | {"_name_or_path": opened.name_or_path}
