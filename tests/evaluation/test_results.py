import copy
import json
import math
import os

import pytest

from hf_ssl.evaluation.compare import forward_flops
from hf_ssl.evaluation.results import find_result, read_results, rows_by_encoder, write_results

ROW = {
    "encoder": "pretrained",
    "classifier": "linear_probe",
    "accuracy": 0.5,
    "accuracy_ci95": [0.4, 0.6],
    "top5_accuracy": 0.8,
    "top5_accuracy_ci95": [0.7, 0.9],
    "macro_f1": 0.45,
    "macro_f1_ci95": [0.35, 0.55],
    "feature_dim": 512,
}
RESULTS = {
    "schema_version": 1,
    "model": {
        "model_type": "simclr",
        "method": "SimCLR",
        "backbone": "resnet18",
        "config": {"image_size": 64},
        "encoder_parameters": 11_000_000,
        "parameters": 12_000_000,
    },
    "pretraining": {
        "recipe": "simclr_report",
        "arguments": {"batch_size": 32},
        "dataset": "embedded",
        "revision": None,
        "split": "train",
        "num_images": 8000,
        "epochs": 2.0,
        "steps": 500,
        "effective_batch_size": 32,
        "images_seen": 16000,
        "wall_time_s": 100.5,
        "images_per_second": 160,
        "precision": "bf16",
        "hardware": {"device": "cpu"},
        "versions": {"torch": "2.15.0"},
        "final_loss": 3.2,
        "loss_curve": [[1, 4.1], [500, 3.2]],
        "command": "hf-ssl pretrain --config simclr_report",
    },
    "evaluation": {
        "dataset": "embedded",
        "revision": None,
        "train_split": "train",
        "split": "validation",
        "num_train": 8000,
        "num_test": 2000,
        "num_classes": 2,
        "class_names": ["Pünktchen", "lines"],
        "image_size": 32,
        "crop_fraction": 1.0,
        "protocol": {"solver": "lbfgs"},
        "wall_time_s": 20.0,
        "command": "hf-ssl probe runs/simclr_report",
        "results": [ROW, {**ROW, "encoder": "random", "accuracy": 0.1}],
    },
}


def changed(keys, value):
    results = copy.deepcopy(RESULTS)
    *parents, last = keys
    part = results
    for key in parents:
        part = part[key]
    part[last] = value
    return results


def without(keys):
    results = copy.deepcopy(RESULTS)
    *parents, last = keys
    part = results
    for key in parents:
        part = part[key]
    del part[last]
    return results


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)
    assert read_results(path) == RESULTS


def test_the_file_may_be_read_by_whom_any_new_file_may(tmp_path):
    write_results(tmp_path / "results.json", RESULTS)
    (tmp_path / "plain").touch()
    assert (tmp_path / "results.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_run_may_not_be_evaluated_yet(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, without(["evaluation"]))
    assert "evaluation" not in read_results(path)


@pytest.mark.parametrize("section", ["model", "pretraining", "evaluation"])
def test_every_key_of_a_section_is_required(tmp_path, section):
    for key in RESULTS[section]:
        with pytest.raises(ValueError, match=f"results.json: {section}: '{key}' is a required property"):
            write_results(tmp_path / "results.json", without([section, key]))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["schema_version"], 2, "schema_version: 1 was expected"),
        (["extra"], 1, "top level: .*'extra' was unexpected"),
        (["model", "layers"], 1, "model: .*'layers' was unexpected"),
        (["pretraining", "learning_rate"], 1, "pretraining: .*'learning_rate' was unexpected"),
        (["evaluation", "f1"], 1, "evaluation: .*'f1' was unexpected"),
        (["evaluation", "results", 1, "f1"], 1, r"evaluation\.results\[1\]: .*'f1' was unexpected"),
        (
            ["evaluation", "results", 0, "accuracy"],
            38.2,
            r"evaluation\.results\[0\]\.accuracy: 38.2 is greater",
        ),
        (
            ["evaluation", "results", 0, "accuracy_ci95"],
            [0.1],
            r"results\[0\]\.accuracy_ci95: \[0.1\] is too short",
        ),
        (["evaluation", "results", 0, "classifier"], "svm", r"results\[0\]\.classifier: 'svm' is not one of"),
        (["evaluation", "results", 0, "classifier"], "knn", "evaluation: 'knn' is a required property"),
        (["evaluation", "knn"], {"k": 0, "temperature": 0.07}, "evaluation.knn.k: 0 is less than the minimum of 1"),
        (["evaluation", "knn"], {"k": 20, "temperature": 0}, "evaluation.knn.temperature: 0 is less than or equal"),
        (["evaluation", "knn"], {"k": 20}, "evaluation.knn: 'temperature' is a required property"),
        (["evaluation", "results", 0, "encoder"], "best", r"results\[0\]\.encoder: 'best' is not one of"),
        (["pretraining", "steps"], 1.5, "pretraining.steps: 1.5 is not of type 'integer'"),
        (["pretraining", "loss_curve", 1], [2], r"loss_curve\[1\]: \[2\] is too short"),
        (["pretraining", "final_loss"], math.nan, "pretraining.final_loss: nan is not finite"),
        (
            ["pretraining", "loss_curve", 1, 1],
            math.inf,
            r"pretraining.loss_curve\[1\]\[1\]: inf is not finite",
        ),
        (["pretraining", "arguments", "rate"], math.nan, "pretraining.arguments.rate: nan is not finite"),
    ],
)
def test_errors_name_the_key_and_keep_the_file(tmp_path, keys, value, message):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)
    with pytest.raises(ValueError, match=message) as error:
        write_results(path, changed(keys, value))
    assert "\n" not in str(error.value)
    assert read_results(path) == RESULTS


def test_reading_validates_too(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed(["model", "parameters"], "many")))
    with pytest.raises(ValueError, match="model.parameters: 'many' is not of type 'integer'"):
        read_results(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        read_results(path)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_results(path, without(["evaluation"]))
    assert read_results(path) == RESULTS
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_values_that_json_lacks_do_not_harm_the_file(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)
    with pytest.raises(TypeError):
        write_results(path, changed(["model", "config", "path"], tmp_path))
    assert read_results(path) == RESULTS
    assert len(list(tmp_path.iterdir())) == 1


def test_a_result_is_found_by_its_encoder():
    assert find_result(RESULTS, "random")["accuracy"] == 0.1
    with pytest.raises(KeyError, match="'raw_pixels', only of: pretrained, random"):
        find_result(RESULTS, "raw_pixels")
    with pytest.raises(KeyError, match="not evaluated"):
        find_result(without(["evaluation"]), "random")


def test_the_rows_of_classifiers_are_not_mixed(tmp_path):
    results = changed(["evaluation", "knn"], {"k": 20, "temperature": 0.07})
    knn = {**ROW, "classifier": "knn", "accuracy": 0.3}
    results["evaluation"]["results"] = [knn, *results["evaluation"]["results"]]
    write_results(tmp_path / "results.json", results)
    assert find_result(results, "pretrained")["accuracy"] == 0.5
    assert find_result(results, "pretrained", "knn")["accuracy"] == 0.3
    assert list(rows_by_encoder(results["evaluation"])) == ["pretrained", "random"]
    assert rows_by_encoder(results["evaluation"], "knn") == {"pretrained": knn}
    with pytest.raises(KeyError, match="no knn result of the encoder 'random', only of: pretrained"):
        find_result(results, "random", "knn")
    with pytest.raises(KeyError, match="no knn result of the encoder 'random', only of: none;"):
        find_result(RESULTS, "random", "knn")


def test_results_of_a_method_that_is_none_of_ours_are_refused(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["model"]["model_type"] = "bert"
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="results.json: model.model_type: 'bert' is no method of hf_ssl"):
        read_results(tmp_path / "results.json")


def test_a_config_in_results_says_no_more_than_the_methods_fields():
    results = copy.deepcopy(RESULTS)
    results["model"]["config"]["attn_implementation"] = "somebody/kernel"
    with pytest.raises(ValueError, match="config.json has the key 'attn_implementation'"):
        forward_flops(results)
