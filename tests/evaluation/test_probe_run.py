"""A run is probed, compared and reported from what it left on disk."""

import copy
import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

from hf_ssl.augment import ViewPolicy
from hf_ssl.data import ImageLoader, open_source
from hf_ssl.evaluation.compare import compare, describe_views, format_table, forward_flops, read_runs, results_table
from hf_ssl.evaluation.features import extract_all
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.probe_run import DataArguments, parse_probe, probe_run
from hf_ssl.evaluation.report import draw_accuracies, write_report
from hf_ssl.evaluation.results import find_result, read_results
from hf_ssl.training.arguments import parse_pretrain
from hf_ssl.training.loop import pretrain

TINY = {
    "simclr": {"backbone_kwargs": {"channels": [8, 8, 16, 16]}, "projection_hidden_size": 16},
    "mae": {"backbone_kwargs": {"depth": 1, "embed_dim": 48, "num_heads": 3}, "patch_size": 8},
}


ENCODERS = ("pretrained", "random", "raw_pixels")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, texture_folder):
    """One probed run of each method."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for method, model in TINY.items():
        recipe = folder / f"{method}.yaml"
        changes = {"dataset": str(texture_folder), "max_steps": 2, "batch_size": 8, "warmup_epochs": 0}
        recipe.write_text(yaml.safe_dump({"base": f"{method}_demo", "mixed_precision": "no", **model, **changes}))
        argv = ["--config", str(recipe), "--output_dir", str(folder / method)]
        made[method] = pretrain(*parse_pretrain(argv), "hf-ssl pretrain")
        probe_run(made[method], DataArguments(), ProbeArguments(max_iterations=20), "hf-ssl evaluate", print)
    return made


@pytest.fixture(params=sorted(TINY))
def run(runs, request):
    return runs[request.param]


def test_the_results_are_complete(run, texture_folder):
    evaluation = read_results(run / "results.json")["evaluation"]
    assert [(row["classifier"], row["encoder"]) for row in evaluation["results"]] == [
        (classifier, encoder) for classifier in ("linear_probe", "knn") for encoder in ENCODERS
    ]
    assert evaluation["knn"] == {"k": 20, "temperature": 0.07}
    assert (evaluation["num_train"], evaluation["num_test"], evaluation["num_classes"]) == (64, 40, 20)
    assert evaluation["dataset"] == str(texture_folder) and evaluation["split"] == "validation"
    assert evaluation["class_names"] == open_source("embedded", split="validation").class_names


def test_the_saved_classifier_has_the_accuracy_that_was_recorded(run, texture_folder):
    source = open_source(str(texture_folder), split="validation")
    loader = ImageLoader(source, batch_size=16, image_size=32, shuffle=False, drop_last=False)
    encoder = AutoModel.from_pretrained(run / "pretraining")
    config = encoder.config
    features = extract_all(
        {"it": encoder}, loader, output_size=32, mean=config.image_mean, std=config.image_std, device="cpu"
    )["it"]
    classifier = load_file(run / "probe.safetensors")
    scores = features.features @ classifier["weight"].T + classifier["bias"]
    accuracy = (scores.argmax(dim=1) == features.labels).float().mean().item()
    recorded = find_result(read_results(run / "results.json"), "pretrained")["accuracy"]
    assert accuracy == pytest.approx(recorded, abs=1e-6)


def test_the_random_encoder_is_another_one(run):
    results = read_results(run / "results.json")["evaluation"]["results"]
    assert results[0]["feature_dim"] == results[1]["feature_dim"]
    assert results[0]["macro_f1_ci95"] != results[1]["macro_f1_ci95"]


def test_pictures_show_views_and_what_the_model_draws(runs):
    names = {method: {path.name for path in (run / "pictures").iterdir()} for method, run in runs.items()}
    assert names == {"simclr": {"views.png"}, "mae": {"views.png", "illustration.png"}}
    for run in runs.values():
        for path in (run / "pictures").iterdir():
            with Image.open(path) as picture:
                assert len(picture.convert("L").getcolors(256 * 256)) > 30


def test_the_tables_hold_the_numbers_of_the_results(runs):
    results = read_runs(list(runs.values()))
    text = compare(results)
    for result in results:
        for row in result["evaluation"]["results"]:
            assert f"{row['accuracy']:.1%}" in text
            assert f"{row['macro_f1']:.3f}" in text or row["classifier"] == "knn"
    for word in ("architecture", "pretraining type", "augmentations", "loss", "complexity", "representation"):
        assert word in text
    widths = {len(line) for line in text.split("\n\n")[1].splitlines()}
    assert len(widths) == 1


def strip_knn(results):
    """What an evaluation without kNN leaves, and the evaluation of earlier versions."""
    results = copy.deepcopy(results)
    del results["evaluation"]["knn"]
    rows = results["evaluation"]["results"]
    results["evaluation"]["results"] = [row for row in rows if row["classifier"] == "linear_probe"]
    return results


def test_only_runs_with_knn_have_its_column(runs):
    simclr, mae = read_runs(list(runs.values()))
    rows = [line.split("|") for line in results_table([simclr, mae]).splitlines()[2:]]
    assert len(rows) == 2 + 2 * len(ENCODERS)
    column = [cell.strip() for cell in rows[0]].index("kNN accuracy")
    for row, (run, encoder) in zip(rows[2:], [(run, name) for run in (simclr, mae) for name in ENCODERS], strict=True):
        assert row[column].strip().startswith(f"{find_result(run, encoder, 'knn')['accuracy']:.1%} [")

    mixed = results_table([strip_knn(simclr), mae])
    rows = [line.split("|") for line in mixed.splitlines()[2:]]
    assert [row[column].strip() == "–" for row in rows[2:]] == [True] * 3 + [False] * 3
    assert "weighted kNN (k 20, τ 0.07)" in mixed
    assert "kNN" not in results_table([strip_knn(simclr), strip_knn(mae)])


def test_the_bars_are_those_of_the_linear_probe(runs, tmp_path):
    results = read_runs(list(runs.values()))
    draw_accuracies(results, tmp_path / "with.png")
    draw_accuracies([strip_knn(result) for result in results], tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_knn_may_be_left_out_or_changed(runs, tmp_path):
    run = copy_run(runs["mae"], tmp_path)
    _, data, arguments = parse_probe([str(run), "--no_knn", "--no_raw_pixels", "--max_iterations", "5"])
    evaluation = probe_run(run, data, arguments, "")["evaluation"]
    assert "knn" not in evaluation and {row["classifier"] for row in evaluation["results"]} == {"linear_probe"}

    flags = ["--knn_k", "3", "--knn_temperature", "0.5", "--no_raw_pixels", "--max_iterations", "5"]
    _, data, arguments = parse_probe([str(run), *flags])
    probe_run(run, data, arguments, "")
    evaluation = read_results(run / "results.json")["evaluation"]
    assert evaluation["knn"] == {"k": 3, "temperature": 0.5}
    assert "knn_k" not in evaluation["protocol"]
    with pytest.raises(ValueError, match="65 neighbours cannot be taken from 64 training images"):
        probe_run(run, DataArguments(knn_k=65), arguments, "")


def copy_run(run, folder):
    return shutil.copytree(run, folder / "copy")


def global_states():
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state().numpy(),
        "accelerate": [dict(state._shared_state) for state in (PartialState, AcceleratorState, GradientState)],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "numbers": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_num_threads()),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_process_goes_on_as_if_nothing_was_evaluated(runs, tmp_path, fails):
    Accelerator(cpu=True)
    run = copy_run(runs["mae"], tmp_path)
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    before = global_states()
    if fails:
        with pytest.raises(ValueError, match="no split 'test'"):
            probe_run(run, DataArguments(dataset="embedded", eval_split="test"), ProbeArguments(), "")
    else:
        probe_run(run, DataArguments(raw_pixels=False), ProbeArguments(max_iterations=5), "")
    np.testing.assert_equal(global_states(), before)


def test_a_report_links_pictures_that_exist(runs, tmp_path):
    path = write_report(list(runs.values()), tmp_path / "report", "Title", "command")
    text = path.read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    pictures = {link for link in links if link.endswith(".png")}
    assert {"accuracy.png", "loss.png", "mae-illustration.png", "simclr-views.png"} <= pictures
    assert all((path.parent / picture).stat().st_size > 1000 for picture in pictures)


def test_runs_of_one_name_are_not_mixed(runs, tmp_path):
    with pytest.raises(ValueError, match="share a name"):
        write_report([runs["mae"], runs["mae"]], tmp_path / "report", "Title", "command")
    assert not (tmp_path / "report").exists()


def test_flops_are_those_of_the_multiplications(runs):
    """Every product of the encoder and the head, counted by hand for the ViT: 2 · tokens · in · out each."""
    result = read_results(runs["mae"] / "results.json")
    width, patches, visible, decoder, pixels = 48, 16, 4, 96, 192

    def block(tokens: int, width: int) -> int:
        return 2 * tokens * (4 * width**2 + 8 * width**2) + 2 * 2 * tokens**2 * width

    expected = 2 * visible * pixels * width + block(1 + visible, width) + 2 * (1 + visible) * width * decoder
    expected += 2 * block(1 + patches, decoder) + 2 * (1 + patches) * decoder * pixels
    assert forward_flops(result) == pytest.approx(expected, rel=0.01)


def test_views_are_described_once_for_each_policy():
    view = ViewPolicy(crop_scale=(0.2, 1.0), jitter_prob=0, grayscale_prob=0, blur_prob=0.5)
    fields = {name: getattr(view, name) for name in view.__dataclass_fields__}
    [line] = describe_views([fields, fields])
    assert line == "2 × crop 20% to 100% of the area, flip (p 0.5), blur (p 0.5)"


def test_a_cell_with_a_bar_does_not_break_the_table():
    table = format_table(["a"], [["x|y"]])
    assert table.splitlines()[-1] == r"| x\|y |"


def test_what_is_missing_is_said(tmp_path, runs):
    with pytest.raises(FileNotFoundError, match="holds no results.json; give the folder of a finished"):
        probe_run(tmp_path, DataArguments(), ProbeArguments(), "")
    with pytest.raises(FileNotFoundError, match="holds no results.json"):
        read_runs([tmp_path])
    results = read_results(runs["mae"] / "results.json")
    del results["evaluation"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="was not evaluated; run `hf-ssl evaluate"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match="No run was given"):
        parse_probe([])
    with pytest.raises(ValueError, match="'--slover' is unknown; did you mean '--solver'"):
        parse_probe(["run", "--slover", "sgd"])


def test_a_split_that_is_not_there_is_an_error(runs):
    with pytest.raises(ValueError, match="no split 'test'"):
        probe_run(runs["mae"], DataArguments(dataset="embedded", eval_split="test"), ProbeArguments(), "")


def test_a_grid_comes_from_the_command_line():
    _, _, recipe = parse_probe(["run", "--config", "probe_sgd"])
    assert (recipe.learning_rate, recipe.weight_decay) == (1.0, 0.0)
    _, _, grid = parse_probe(["run", "--config", "probe_sgd", "--learning_rate", "0.1", "1", "--weight_decay", "1e-4"])
    assert (grid.learning_rate, grid.weight_decay) == ([0.1, 1.0], 1e-4)
