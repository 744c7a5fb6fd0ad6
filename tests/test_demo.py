"""The demo, run as a user runs it but shorter: both methods learn, and what they leave opens everywhere."""

import subprocess
import sys

import pytest
import timm
from transformers import pipeline

from hf_ssl import MAEForPreTraining, SimCLRForPreTraining
from hf_ssl.evaluation.results import find_result, read_results

RUNS = ("simclr_demo", "mae_demo")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder and what it printed; half the steps, as these take most of the time of all tests."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    command = [sys.executable, "-m", "hf_ssl.cli", "demo", "--output", str(folder), "--max_steps", "320"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


@pytest.mark.parametrize("run", RUNS)
def test_pretraining_beats_the_random_encoder_and_raw_pixels_clearly(demo, run):
    """Raw pixels and a random encoder do badly on the embedded set, a learned one does well."""
    results = read_results(demo[0] / "runs" / run / "results.json")
    rows = {encoder: find_result(results, encoder) for encoder in ("raw_pixels", "random", "pretrained")}
    print(run, {encoder: f"{row['accuracy']:.1%}" for encoder, row in rows.items()})
    assert rows["raw_pixels"]["accuracy"] < 0.25
    assert rows["random"]["accuracy"] < 0.6
    assert rows["pretrained"]["accuracy_ci95"][0] > rows["random"]["accuracy_ci95"][1]
    assert rows["pretrained"]["macro_f1_ci95"][0] > rows["random"]["macro_f1_ci95"][1]


def test_it_prints_the_tables_and_classifies_an_image(demo):
    folder, printed = demo
    for run in RUNS:
        accuracy = find_result(read_results(folder / "runs" / run / "results.json"), "pretrained")["accuracy"]
        assert f"{accuracy:.1%}" in printed
    assert "representation is good for" in printed
    assert 'pipeline("image-classification"' in printed and "(the label is " in printed


def test_it_leaves_a_report_and_repositories_that_load(demo):
    folder, _ = demo
    report = (folder / "report" / "report.md").read_text()
    for picture in ("accuracy.png", "loss.png", "mae_demo-illustration.png", "simclr_demo-views.png"):
        assert picture in report and (folder / "report" / picture).is_file()
    for name, model_class in (("simclr-demo", SimCLRForPreTraining), ("mae-demo", MAEForPreTraining)):
        repository = folder / "repositories" / name
        predictions = pipeline("image-classification", model=str(repository))(str(folder / "example.jpg"), top_k=20)
        assert sum(prediction["score"] for prediction in predictions) == pytest.approx(1, abs=1e-3)
        timm.create_model(f"local-dir:{repository}", pretrained=True)
        model_class.from_pretrained(repository, subfolder="pretraining")
