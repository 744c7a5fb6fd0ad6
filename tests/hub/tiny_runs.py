"""Runs as pretraining and the probe leave them, with tiny random models."""

import dataclasses
import json
import shlex

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from hf_ssl import MAEConfig, MAEForPreTraining, SimCLRConfig, SimCLRForPreTraining
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.results import write_results
from hf_ssl.training.arguments import PretrainArguments
from hf_ssl.training.environment import describe_hardware, describe_versions
from hf_ssl.training.record import describe_model

CLASS_NAMES = [
    "n01443537 goldfish, Carassius auratus",
    "<script>alert(1)</script>",
    "a|b *c*",
    "_x_ [y](z)",
    "Ähre",
    "6",
]
HUB_DATA, REVISION = "clane9/imagenet-100", "0519dc2f402a3a18c6e57f7913db059215eee25b"
MAE_FIELDS = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_kwargs": {"depth": 2},
    "image_size": 32,
    "patch_size": 8,
    "decoder_hidden_size": 32,
    "decoder_num_layers": 1,
    "decoder_num_heads": 2,
}


def build_simclr():
    config = SimCLRConfig(
        backbone="resnet18", backbone_kwargs={"channels": [16, 32, 64, 128]}, image_size=32, image_mean=[0.4, 0.5, 0.6]
    )
    model = SimCLRForPreTraining(config)
    model.train()(torch.randn(4, 2, 3, 32, 32))  # running statistics that differ from the initial ones
    return model


def build_mae(pooling):
    model = MAEForPreTraining(MAEConfig(**MAE_FIELDS, pooling=pooling))
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)  # so that pooling before and after the norm differ
    return model


BUILDERS = {"simclr": build_simclr, "mae-mean": lambda: build_mae("mean"), "mae-cls": lambda: build_mae("cls")}


def result_row(encoder, accuracy, features, classifier="linear_probe"):
    around = {"accuracy": accuracy, "top5_accuracy": accuracy + 0.2, "macro_f1": accuracy - 0.01}
    intervals = {f"{name}_ci95": [value - 0.03, value + 0.03] for name, value in around.items()}
    return {"encoder": encoder, "classifier": classifier, **around, **intervals, "feature_dim": features}


def write_run(run, model, *, dataset, revision, class_names=CLASS_NAMES):
    """What pretraining and the probe leave behind, with random weights."""
    features = model.to_timm().num_features
    model.save_pretrained(run / "pretraining")
    probe = {"weight": torch.randn(len(class_names), features), "bias": torch.randn(len(class_names))}
    save_file(probe, run / "probe.safetensors")
    views = [{}, {}] if model.config.model_type == "simclr" else [{}]
    arguments = json.loads(
        json.dumps(
            dataclasses.asdict(
                PretrainArguments(
                    dataset=f"{dataset}@{revision}" if revision else dataset,
                    output_dir=str(run),
                    epochs=2,
                    batch_size=32,
                    views=views,
                )
            )
        )
    )
    (run / "recipe.yaml").write_text(yaml.safe_dump({"recipe": "tiny", **arguments, "model": MAE_FIELDS}))
    results = {
        "schema_version": 1,
        "model": describe_model(model),
        "pretraining": {
            "recipe": "tiny",
            "arguments": arguments,
            "dataset": dataset,
            "revision": revision,
            "split": "train",
            "num_images": 8000,
            "epochs": 2.0,
            "steps": 500,
            "effective_batch_size": 32,
            "images_seen": 16000,
            "wall_time_s": 3725.4,
            "images_per_second": 43.2,
            "precision": "bf16",
            "hardware": describe_hardware(torch.device("cpu")),
            "versions": describe_versions(),
            "final_loss": 3.21,
            "loss_curve": [[10, 4.1], [250, 3.5], [500, 3.21]],
            "command": shlex.join(
                ["hf-ssl", "pretrain", "--config", "tiny", "--dataset", dataset, f"--output_dir={run}"]
            ),
        },
        "evaluation": {
            "dataset": dataset,
            "revision": revision,
            "train_split": "train",
            "split": "validation",
            "num_train": 8000,
            "num_test": 2000,
            "num_classes": len(class_names),
            "class_names": class_names,
            "image_size": 32,
            "crop_fraction": 0.875,
            "protocol": {**dataclasses.asdict(ProbeArguments()), "chosen_weight_decay": {"pretrained": 0.01}},
            "wall_time_s": 20.0,
            "command": shlex.join(["hf-ssl", "evaluate", str(run)]),
            "results": [
                result_row("pretrained", 0.4567, features),
                result_row("random", 0.2345, features),
                result_row("raw_pixels", 0.4432, 3072),
                result_row("pretrained", 0.3571, features, "knn"),
                result_row("random", 0.1592, features, "knn"),
                result_row("raw_pixels", 0.1618, 3072, "knn"),
            ],
            "knn": {"k": 20, "temperature": 0.07},
        },
    }
    write_results(run / "results.json", results)
    (run / "pictures").mkdir()
    for name in ("views", "illustration"):
        Image.new("RGB", (4, 4)).save(run / "pictures" / f"{name}.png")
    return run
