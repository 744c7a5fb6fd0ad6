"""The loop: interrupted equals uninterrupted, accumulated equals whole, two processes equal one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, PreTrainedModel

import hf_ssl.training.loop as loop
import hf_ssl.training.views as views
from hf_ssl.evaluation.results import read_results
from hf_ssl.models.mae.modeling_mae import MAEForPreTraining
from hf_ssl.training.arguments import parse_pretrain
from hf_ssl.training.checkpoints import list_checkpoints
from hf_ssl.training.progress import Progress
from hf_ssl.training.record import repeating_command

ROOT = Path(__file__).parents[2]
TINY_MODELS = {
    "simclr": {"backbone_kwargs": {"channels": [8, 8, 16, 16]}, "projection_hidden_size": 16, "projection_dim": 8},
    "mae": {
        "backbone_kwargs": {"depth": 1, "embed_dim": 48, "num_heads": 3},
        "patch_size": 8,
        "decoder_hidden_size": 32,
        "decoder_num_layers": 1,
        "decoder_num_heads": 2,
    },
}
# 64 images make 8 steps of an epoch.
SMALL = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0.25, "checkpoint_epochs": 0.25, "checkpoint_limit": 9}
# Images as they are, so that views do not depend on how a batch is cut.
PLAIN_VIEW = {
    "crop_scale": [1.0, 1.0],
    "crop_ratio": [1.0, 1.0],
    "flip_prob": 0.0,
    "jitter_prob": 0.0,
    "grayscale_prob": 0.0,
    "blur_prob": 0.0,
}


@pytest.fixture(params=sorted(TINY_MODELS))
def method(request):
    return request.param


def write_recipe(folder: Path, method: str, data: Path, **changes) -> Path:
    path = folder / f"{method}_tiny.yaml"
    recipe = {"base": f"{method}_demo", "dataset": str(data), "mixed_precision": "no", **TINY_MODELS[method]}
    path.write_text(yaml.safe_dump({**recipe, **SMALL, **changes}))
    return path


def run(folder: Path, method: str, data: Path, *flags: str, output: str = "run", **changes) -> Path:
    recipe = write_recipe(folder, method, data, **changes)
    argv = ["--config", str(recipe), "--output_dir", str(folder / output), *flags]
    return loop.pretrain(*parse_pretrain(argv), "the command")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "pretraining" / "model.safetensors")


def model_of(run: Path) -> PreTrainedModel:
    return AutoModelForPreTraining.from_pretrained(run / "pretraining")


def test_a_run_leaves_model_results_recipe_and_log(tmp_path, method, texture_folder):
    finished = run(tmp_path, method, texture_folder, "--logging_steps", "3")
    results = read_results(finished / "results.json")
    pretraining = results["pretraining"]
    assert pretraining["steps"] == 8 and pretraining["images_seen"] == 64 and pretraining["epochs"] == 1
    assert pretraining["num_images"] == 64 and pretraining["command"] == "the command"
    assert results["model"]["parameters"] == sum(weight.numel() for weight in model_of(finished).parameters())
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
    assert pretraining["loss_curve"] == [[line["step"], line["loss"]] for line in lines]
    assert pretraining["final_loss"] == lines[-1]["loss"]

    # The recipe that a run leaves repeats it.
    argv = ["--config", str(finished / "recipe.yaml"), "--output_dir", str(tmp_path / "again")]
    again = loop.pretrain(*parse_pretrain(argv), "the command")
    assert all(torch.equal(weight, weights(again)[name]) for name, weight in weights(finished).items())


def test_training_lowers_the_loss(tmp_path, method, texture_folder):
    finished = run(tmp_path, method, texture_folder, "--epochs", "6", "--learning_rate", "3e-3")
    curve = [loss for _, loss in read_results(finished / "results.json")["pretraining"]["loss_curve"]]
    assert sum(curve[-4:]) < 0.97 * sum(curve[:4])


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, method, texture_folder):
    whole = run(tmp_path, method, texture_folder, output="whole")
    resumed = tmp_path / "resumed"
    assert [path.name for path in list_checkpoints(whole)] == [f"step-{step:08d}" for step in (2, 4, 6, 8)]
    shutil.copytree(whole / "checkpoints" / "step-00000004", resumed / "checkpoints" / "step-00000004")
    run(tmp_path, method, texture_folder, "--resume_from_checkpoint", "latest", output="resumed")
    expected, got = weights(whole), weights(resumed)
    assert all(torch.equal(weight, got[name]) for name, weight in expected.items())
    curves = [read_results(folder / "results.json")["pretraining"]["loss_curve"] for folder in (whole, resumed)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_loses_nothing(tmp_path, method, number, texture_folder, monkeypatch):
    handler = signal.getsignal(number)
    whole = run(tmp_path, method, texture_folder, output="whole")
    normalize_views, calls = views.normalize_views, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return normalize_views(*args)

    monkeypatch.setattr(views, "normalize_views", interrupted)
    with pytest.raises(KeyboardInterrupt, match="after step 3 of 8; continue with .* --resume_from_checkpoint latest"):
        run(tmp_path, method, texture_folder, output="broken", checkpoint_epochs=1)
    assert signal.getsignal(number) is handler
    resumed = run(
        tmp_path,
        method,
        texture_folder,
        "--resume_from_checkpoint",
        "latest",
        output="broken",
        checkpoint_epochs=1,
    )
    expected, got = weights(whole), weights(resumed)
    assert all(torch.equal(weight, got[name]) for name, weight in expected.items())


def test_a_finished_run_is_not_overwritten(tmp_path, texture_folder):
    run(tmp_path, "simclr", texture_folder, "--max_steps", "1")
    before = weights(tmp_path / "run")
    with pytest.raises(FileExistsError, match="holds a finished run; choose another --output_dir"):
        run(tmp_path, "simclr", texture_folder, "--max_steps", "1", "--seed", "1")
    assert all(torch.equal(weight, before[name]) for name, weight in weights(tmp_path / "run").items())


def test_a_resumed_run_keeps_to_what_its_crops_came_from(tmp_path, texture_folder, monkeypatch):
    whole = run(tmp_path, "mae", texture_folder, output="whole", cache="none")
    run(tmp_path, "mae", texture_folder, cache="none", checkpoint_limit=9)
    for folder in ("results.json", "pretraining", "checkpoints/step-00000006", "checkpoints/step-00000008"):
        path = tmp_path / "run" / folder
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # What "auto" would choose for a new run now.
    monkeypatch.setattr(views, "choose_cache", lambda requested, *args, **kwargs: "memory")
    resumed = run(tmp_path, "mae", texture_folder, "--resume_from_checkpoint", "latest", cache="auto")
    assert read_results(resumed / "results.json")["pretraining"]["crops_from"] == "originals"
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(whole).items())


def test_resuming_with_another_order_is_refused(tmp_path, texture_folder):
    finished = run(tmp_path, "mae", texture_folder)
    (finished / "results.json").unlink()
    with pytest.raises(FileExistsError, match="holds an unfinished run; continue it"):
        run(tmp_path, "mae", texture_folder)
    with pytest.raises(ValueError, match=r"batch_size=8, this run has 4; resume with batch_size=8"):
        run(tmp_path, "mae", texture_folder, "--resume_from_checkpoint", "latest", "--batch_size", "4")
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        run(tmp_path, "mae", texture_folder, "--resume_from_checkpoint", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        run(tmp_path, "mae", texture_folder, "--resume_from_checkpoint", "latest", output="empty")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path, texture_folder, monkeypatch
):
    normalize_views, calls = views.normalize_views, []

    def poisoned(*args):
        calls.append(1)
        return normalize_views(*args) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(views, "normalize_views", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 6 \(epoch 0.75\) is not finite"):
        run(tmp_path, "mae", texture_folder)
    kept = list_checkpoints(tmp_path / "run")
    assert kept[-1].name == "step-00000004"
    assert all(torch.isfinite(weight).all() for weight in load_file(kept[-1] / "model.safetensors").values())
    assert not (tmp_path / "run" / "results.json").exists()


def test_weights_that_are_not_finite_do_not_reach_a_checkpoint(tmp_path, texture_folder, monkeypatch):
    """A gradient can overflow behind a finite loss."""

    def poisoned(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 4:
            output.loss.register_hook(lambda gradient: gradient * float("nan"))
        return output

    forward, calls = MAEForPreTraining.forward, []
    monkeypatch.setattr(MAEForPreTraining, "forward", poisoned)
    with pytest.raises(FloatingPointError, match="are not finite at step 4"):
        run(tmp_path, "mae", texture_folder)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000002"]


def test_an_interruption_while_reporting_waits_for_the_next_checkpoint(tmp_path, texture_folder, monkeypatch):
    def interrupted(self, *args):
        if self.position.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return report(self, *args)

    report = Progress.report
    monkeypatch.setattr(Progress, "report", interrupted)
    with pytest.raises(KeyboardInterrupt, match="after step 4 of 8"):
        run(tmp_path, "mae", texture_folder, "--logging_steps", "1", checkpoint_epochs=1)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004"]


def test_a_resumed_run_takes_the_rate_that_is_asked_for(tmp_path, texture_folder):
    changes = {"lr_schedule": "constant", "warmup_epochs": 0, "learning_rate": 1e-3, "weight_decay": 0.1}
    run(tmp_path, "mae", texture_folder, output="whole", **changes)
    start = tmp_path / "resumed" / "checkpoints" / "step-00000004"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "step-00000004", start)
    run(
        tmp_path,
        "mae",
        texture_folder,
        *("--resume_from_checkpoint", "latest", "--learning_rate", "1e-5", "--logging_steps", "1"),
        output="resumed",
        **changes,
    )
    rates = [
        json.loads(line)["learning_rate"] for line in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()
    ]
    assert rates == pytest.approx([1e-5] * 4)
    before, after = load_file(start / "model.safetensors"), weights(tmp_path / "resumed")
    moved = (after["cls_token"] - before["cls_token"]).abs().max().item()
    assert 0 < moved < 4 * 2e-5


def test_later_checkpoints_are_not_mixed_with_a_resumed_branch(tmp_path, texture_folder):
    finished = run(tmp_path, "mae", texture_folder)
    (finished / "results.json").unlink()
    early = str(finished / "checkpoints" / "step-00000002")
    with pytest.raises(ValueError, match="holds the checkpoint step-00000008, later than"):
        run(tmp_path, "mae", texture_folder, "--resume_from_checkpoint", early)
    assert len(list_checkpoints(finished)) == 4


def test_gradients_are_clipped_to_their_norm(tmp_path, texture_folder):
    changes = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant", "warmup_epochs": 0}
    finished = run(
        tmp_path,
        "mae",
        texture_folder,
        *("--max_grad_norm", "0.01", "--learning_rate", "1.0", "--max_steps", "2", "--checkpoint_epochs", "0.125"),
        **changes,
    )
    first, second = (load_file(path / "model.safetensors") for path in list_checkpoints(finished))
    moved = sum((second[name] - weight).double().square().sum() for name, weight in first.items()).sqrt().item()
    assert moved == pytest.approx(0.01, rel=1e-3)
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert all(line["grad_norm"] > 0.01 for line in lines)


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path, texture_folder):
    with pytest.raises(ValueError, match="pip install swanlab"):
        run(tmp_path, "mae", texture_folder, "--report_to", "swanlab")


def test_the_recorded_command_starts_the_run_anew():
    resumed = "hf-ssl pretrain --config mae_demo --resume_from_checkpoint latest --push_to_hub=a/b --seed 1"
    assert repeating_command(resumed, 1) == "hf-ssl pretrain --config mae_demo --seed 1"
    dashed = (
        "hf-ssl pretrain --config mae_demo --push-to-hub a/b --push-private --resume-from-checkpoint latest --seed 1"
    )
    assert repeating_command(dashed, 1) == "hf-ssl pretrain --config mae_demo --seed 1"
    launched = "accelerate launch --num_processes 8 scripts/pretrain.py --config mae_demo --seed 1"
    assert repeating_command(resumed, 8) == launched


def test_accumulated_micro_batches_equal_the_whole_batch(tmp_path, texture_folder, monkeypatch):
    def first_patches_visible(self, noise):
        return mask_patches(self, torch.arange(noise.shape[1], dtype=noise.dtype).expand_as(noise))

    mask_patches = MAEForPreTraining.mask_patches
    monkeypatch.setattr(MAEForPreTraining, "mask_patches", first_patches_visible)
    changes = {"views": [PLAIN_VIEW], "optimizer": "sgd", "learning_rate": 0.1}
    whole = run(tmp_path, "mae", texture_folder, output="whole", **changes)
    parts = run(
        tmp_path, "mae", texture_folder, output="parts", **changes, batch_size=2, gradient_accumulation_steps=4
    )
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    losses = [read_results(folder / "results.json")["pretraining"]["loss_curve"] for folder in (whole, parts)]
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4)


VIT_WITHOUT_BATCH_STATISTICS = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_kwargs": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 48, "num_heads": 3},
    "projection_norm": "none",
    "optimizer": "sgd",
    "learning_rate": 0.1,
}


def test_a_run_with_a_gradient_cache_equals_one_without(tmp_path, texture_folder):
    whole = run(tmp_path, "simclr", texture_folder, output="whole", **VIT_WITHOUT_BATCH_STATISTICS)
    changes = {**VIT_WITHOUT_BATCH_STATISTICS, "gradient_cache_chunk_size": 3}
    chunks = run(tmp_path, "simclr", texture_folder, output="chunks", **changes)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(chunks)[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    losses = [read_results(folder / "results.json")["pretraining"]["loss_curve"] for folder in (whole, chunks)]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)


def test_a_gradient_cache_is_refused_where_it_is_no_use(tmp_path, texture_folder):
    with pytest.raises(ValueError, match="raise gradient_accumulation_steps"):
        run(tmp_path, "mae", texture_folder, gradient_cache_chunk_size=4)


def test_two_processes_equal_one_on_the_whole_batch(tmp_path, texture_folder):
    """A ViT under NT-Xent, as batch norm would see other statistics in every process."""
    recipe = write_recipe(
        tmp_path,
        "simclr",
        texture_folder,
        **VIT_WITHOUT_BATCH_STATISTICS,
        # A random crop would differ between the two; the same image twice still has negatives, and so a loss.
        views=[PLAIN_VIEW, PLAIN_VIEW],
    )
    script = [str(ROOT / "scripts" / "pretrain.py"), "--config", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *script]
    one = [sys.executable, *script]
    for command, batch, output in ((one, "8", "one"), (two, "4", "two")):
        command = [*command, "--batch_size", batch, "--output_dir", str(tmp_path / output)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert finished.returncode == 0, finished.stderr
    results = {name: read_results(tmp_path / name / "results.json")["pretraining"] for name in ("one", "two")}
    assert results["two"]["hardware"]["num_processes"] == 2
    assert results["two"]["effective_batch_size"] == results["one"]["effective_batch_size"] == 8
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    curves = [torch.tensor(results[name]["loss_curve"]) for name in ("one", "two")]
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-4)
