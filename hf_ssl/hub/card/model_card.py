"""The model card of a repository folder: everything on it comes from the folder's results.json.

The text is in `model_card_template.md`; what it says of a method comes from the method's own description.
"""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import CONFIG_MAPPING, MODEL_FOR_PRETRAINING_MAPPING

import hf_ssl  # noqa: F401  registers the methods with both mappings
from hf_ssl.data.sources import EMBEDDED, is_hub_id
from hf_ssl.evaluation.compare import ENCODERS, describe_views, format_duration, format_table
from hf_ssl.evaluation.report import draw_losses
from hf_ssl.evaluation.results import find_result, read_results, rows_by_encoder
from hf_ssl.hub.card.markdown import code, flatten, link, plain

TEMPLATE = Path(__file__).with_name("model_card_template.md")
LOSS_PICTURE = "loss.png"
LICENSE = "apache-2.0"
_PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_card(repository: Path) -> Path:
    """Draw the loss curve of a repository folder and write its README.md.

    Args:
        repository: holds an evaluated, published results.json (see `repository.public`) and maybe `pictures/`; its
            name is the model's.

    Returns:
        The card's path.
    """
    pictures = repository / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_losses([read_results(repository / "results.json")], pictures / LOSS_PICTURE)
    card = repository / "README.md"
    card.write_text(render_card(repository), encoding="utf-8", newline="\n")
    return card


def render_card(repository: Path, repo_id: str | None = None) -> str:
    """The text of the card, a function of results.json, the folder's name and the names of its pictures.

    Args:
        repository: the folder.
        repo_id: where on the Hub its code finds the model; in the folder itself if not given.
    """
    results = read_results(repository / "results.json")
    variables = _variables(repository, results, repo_id)
    card = ModelCard.from_template(
        _metadata(results, repository.resolve().name), template_path=str(TEMPLATE), **variables
    )
    return str(card).rstrip("\n") + "\n"


def render_code_blocks(repository: Path, repo_id: str | None = None) -> list[str]:
    """The Python blocks of the card.

    They are rendered from the template's and not found in the card, whose other parts hold text of others.
    """
    variables = _variables(repository, read_results(repository / "results.json"), repo_id)
    blocks = _PYTHON_BLOCK.findall(TEMPLATE.read_text(encoding="utf-8"))
    return [jinja2.Template(block, keep_trailing_newline=True).render(variables) for block in blocks]


def _variables(repository: Path, results: dict[str, Any], repo_id: str | None) -> dict[str, Any]:
    name = repository.resolve().name
    model, pretraining, evaluation = results["model"], results["pretraining"], results["evaluation"]
    config_class = CONFIG_MAPPING[model["model_type"]]
    model_class = MODEL_FOR_PRETRAINING_MAPPING[config_class]
    datasets = {section["dataset"] for section in (pretraining, evaluation)}
    local = sorted(dataset for dataset in datasets if dataset != EMBEDDED and not is_hub_id(dataset))
    commands = [" ".join(section["command"].splitlines()) for section in (pretraining, evaluation)]
    return {
        "title": plain(name),
        "name_code": code(name),
        "on_hub": repo_id is not None,
        "name_literal": json.dumps(repo_id or name, ensure_ascii=False),
        "timm_literal": json.dumps(f"hf-hub:{repo_id}" if repo_id else f"local-dir:{name}", ensure_ascii=False),
        "summary": _summary(results),
        "pictures": _pictures(repository, model_class.illustration_columns),
        "results_table": _results_table(results),
        "verdict": compare_intervals(evaluation),
        "protocol": _protocol(evaluation),
        "checkpoints_table": _checkpoints_table(results),
        "feature_dim": find_result(results, "pretrained")["feature_dim"],
        "num_classes": evaluation["num_classes"],
        "model_class": model_class.__name__,
        # Through the config, which lets nothing but a number pass into code.
        "image_size": config_class.from_dict(model["config"]).image_size,
        "num_views": len(pretraining["arguments"]["views"]),
        "training_table": _training_table(results),
        "hyperparameters_table": _hyperparameters_table(results),
        "version": plain(pretraining["versions"]["hf_ssl"]),
        "commands": "\n".join(commands),
        # A fence that no command can close.
        "fence": "`" * max([3, *(len(run) + 1 for command in commands for run in re.findall("`+", command))]),
        "local_data": ", ".join(plain(dataset) for dataset in local),
        "representation": config_class.description.representation,
        "limits": _limits(results),
    }


def compare_intervals(evaluation: dict[str, Any]) -> str:
    """What the 95 % intervals of accuracy say of the encoder beside each baseline, one sentence each."""
    rows = rows_by_encoder(evaluation, "linear_probe")
    low, high = rows["pretrained"]["accuracy_ci95"]
    sentences = []
    for encoder, baseline in (("random", "the same encoder at random initialisation"), ("raw_pixels", "raw pixels")):
        if encoder not in rows:
            sentences.append(f"It was not compared with {baseline}.")
            continue
        other_low, other_high = rows[encoder]["accuracy_ci95"]
        if low > other_high:
            sentences.append(f"Its accuracy is above that of {baseline}: the 95 % intervals do not overlap.")
        elif high < other_low:
            sentences.append(f"**Its accuracy is below that of {baseline}**: the 95 % intervals do not overlap.")
        else:
            sentences.append(f"**This run shows no gain over {baseline}**: the 95 % intervals of accuracy overlap.")
    return " ".join(sentences)


def _metadata(results: dict[str, Any], name: str) -> ModelCardData:
    model, evaluation = results["model"], results["evaluation"]
    result = find_result(results, "pretrained")
    dataset = evaluation["dataset"]
    measured = {
        "task_type": "image-classification",
        "task_name": "Image classification",
        "dataset_type": dataset,
        "dataset_name": dataset.rsplit("/", 1)[-1],
        "dataset_split": evaluation["split"],
        "dataset_revision": evaluation["revision"],
    }
    protocols = {"linear probe": result}
    if knn := rows_by_encoder(evaluation, "knn").get("pretrained"):
        protocols["kNN, k={k}, temperature={temperature:g}".format(**evaluation["knn"])] = knn
    base_model = results["pretraining"].get("initialized_from")
    datasets = dict.fromkeys([results["pretraining"]["dataset"], dataset])
    return ModelCardData(
        license=LICENSE,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=[
            "self-supervised",
            model["method"].lower(),
            "linear-probe",
            "image-feature-extraction",
            "timm",
            "transformers",
            "hf_ssl",
        ],
        datasets=[name for name in datasets if is_hub_id(name)] or None,
        base_model=base_model if base_model is not None and is_hub_id(base_model) else None,
        metrics=["accuracy", "f1"],
        model_name=name,
        eval_results=[
            EvalResult(
                **measured,
                metric_type=kind,
                metric_name=title,
                metric_value=value,
                metric_args={"average": "macro"} if kind == "f1" else None,
            )
            for protocol, row in protocols.items()
            for kind, title, value in (
                ("accuracy", f"Accuracy ({protocol})", row["accuracy"]),
                ("top5_accuracy", f"Top-5 accuracy ({protocol})", row["top5_accuracy"]),
                ("f1", f"Macro F1 ({protocol})", row["macro_f1"]),
            )
        ],
    )


def _summary(results: dict[str, Any]) -> str:
    model, pretraining, evaluation = results["model"], results["pretraining"], results["evaluation"]
    description = CONFIG_MAPPING[model["model_type"]].description
    result = find_result(results, "pretrained")
    return (
        f"An image encoder, timm's {code(model['backbone'])}, pretrained by "
        f"{link(description.name, description.paper)} on {pretraining['num_images']:,} images of "
        f"{_data(pretraining)} at {model['config']['image_size']} px, without their labels. With a linear classifier "
        f"on its frozen features it tells {evaluation['num_classes']} classes of {_data(evaluation)} apart with "
        f"{result['accuracy']:.1%} accuracy."
    )


def _data(section: dict[str, Any]) -> str:
    dataset = section["dataset"]
    if dataset == EMBEDDED:
        return "hf_ssl's embedded textures"
    if not is_hub_id(dataset):
        return plain(dataset)
    revision = f" (revision {code(section['revision'][:12])})" if section["revision"] else ""
    return link(dataset, f"https://huggingface.co/datasets/{dataset}") + revision


def _pictures(repository: Path, illustration_columns: tuple[str, ...]) -> list[dict[str, str]]:
    captions = {
        "illustration": f"Test images: {', '.join(illustration_columns)}",
        "views": "Test images and the augmented views that pretraining makes of such",
    }
    stems = sorted(path.stem for path in (repository / "pictures").glob("*.png") if path.name != LOSS_PICTURE)
    return [{"path": f"pictures/{stem}.png", "caption": captions.get(stem, plain(stem))} for stem in stems]


def _results_table(results: dict[str, Any]) -> str:
    evaluation = results["evaluation"]
    knn = rows_by_encoder(evaluation, "knn")
    header = ["encoder", "features", "accuracy", "top-5 accuracy", "macro F1"]
    rows = []
    for encoder, row in rows_by_encoder(evaluation, "linear_probe").items():
        cells = [
            ENCODERS[encoder],
            f"{row['feature_dim']:,}",
            _share(row["accuracy"], row["accuracy_ci95"]),
            _share(row["top5_accuracy"], row["top5_accuracy_ci95"]),
            "{:.3f} [{:.3f}, {:.3f}]".format(row["macro_f1"], *row["macro_f1_ci95"]),
        ]
        if knn:
            cells.append(_share(knn[encoder]["accuracy"], knn[encoder]["accuracy_ci95"]))
        rows.append(cells)
    return format_table([*header, "kNN accuracy"] if knn else header, rows)


def _checkpoints_table(results: dict[str, Any]) -> str:
    """The results of the checkpoints that were published during the pretraining, oldest first; "" if none were."""
    rows = [
        [
            code(checkpoint["tag"]),
            f"{checkpoint['images_seen']:,}",
            _share(checkpoint["accuracy"], checkpoint["accuracy_ci95"]),
            f"{checkpoint['top5_accuracy']:.1%}",
            f"{checkpoint['macro_f1']:.3f}",
        ]
        for checkpoint in results.get("checkpoints", [])
    ]
    return format_table(["tag", "images seen", "accuracy", "top-5 accuracy", "macro F1"], rows) if rows else ""


def _share(value: float, interval: list[float]) -> str:
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def _protocol(evaluation: dict[str, Any]) -> str:
    return (
        f"Linear probe: the encoder is frozen and sees the central {evaluation['crop_fraction']:.1%} of each image at "
        f"{evaluation['image_size']} px, without augmentation; a linear classifier is fitted to the features of "
        f"{evaluation['num_train']:,} images (split {code(evaluation['train_split'])}) and measured on "
        f"{evaluation['num_test']:,} others (split {code(evaluation['split'])}) of {_data(evaluation)}, where chance "
        f"is {1 / evaluation['num_classes']:.1%}. In brackets 95 % intervals: Wilson's for accuracies, bootstrap for "
        "macro F1. The random encoder is the same architecture without any training." + _knn_protocol(evaluation)
    )


def _knn_protocol(evaluation: dict[str, Any]) -> str:
    if "knn" not in evaluation:
        return ""
    return (
        " The kNN accuracy is that of the same features without any training: the {k} nearest training images vote "
        "with the weight exp(cosine / {temperature:g}).".format(**evaluation["knn"])
    )


def _training_table(results: dict[str, Any]) -> str:
    model, pretraining = results["model"], results["pretraining"]
    description = CONFIG_MAPPING[model["model_type"]].description
    arguments = pretraining["arguments"]
    rows = [
        ["method", f"{link(description.name, description.paper)}, {description.pretraining_type}"],
        ["objective", description.objective],
        [
            "encoder",
            f"{code(model['backbone'])}, {_millions(model['encoder_parameters'])} parameters "
            f"({_millions(model['parameters'])} while pretraining)",
        ],
        ["started from", _start(pretraining)],
        ["data", f"{_data(pretraining)}, split {code(pretraining['split'])}, {pretraining['num_images']:,} images"],
        ["views", "; ".join(describe_views(arguments["views"]))],
        ["images seen", f"{pretraining['images_seen']:,} ({pretraining['epochs']:.4g} epochs)"],
        ["steps", f"{pretraining['steps']:,} of {pretraining['effective_batch_size']:,} images"],
        [
            "optimiser",
            f"{code(arguments['optimizer'])}, learning rate {arguments['learning_rate']:g}, scaling "
            f"{code(arguments['lr_scaling'])}, schedule {code(arguments['lr_schedule'])}",
        ],
        ["final loss", f"{pretraining['final_loss']:.4g}"],
        [
            "wall time",
            f"{format_duration(pretraining['wall_time_s'])}, {pretraining['images_per_second']:,.0f} images/s",
        ],
        ["hardware", _items(pretraining["hardware"])],
        ["precision", code(pretraining["precision"])],
        ["versions", _items(pretraining["versions"])],
        ["recipe", f"{code(pretraining['recipe'])}, all of it in {link('recipe.yaml', 'recipe.yaml')}"],
    ]
    return format_table(["", ""], rows)


def _start(pretraining: dict[str, Any]) -> str:
    base = pretraining.get("initialized_from")
    if base is None:
        return "random weights"
    return link(base, f"https://huggingface.co/{base}") if is_hub_id(base) else plain(base)


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.3g} M"


def _items(mapping: dict[str, Any]) -> str:
    return ", ".join(f"{plain(key)} {plain(str(value))}" for key, value in mapping.items())


def _hyperparameters_table(results: dict[str, Any]) -> str:
    parts = {
        "model": results["model"]["config"],
        "pretraining": results["pretraining"]["arguments"],
        "linear probe": results["evaluation"]["protocol"],
    }
    rows = [
        [part, code(name), code(value if isinstance(value, str) else json.dumps(value))]
        for part, values in parts.items()
        for name, value in flatten(values, "")
    ]
    return format_table(["part", "name", "value"], rows)


def _limits(results: dict[str, Any]) -> list[str]:
    """Sentences that follow from the numbers."""
    pretraining, evaluation = results["pretraining"], results["evaluation"]
    wrong = 1 - find_result(results, "pretrained")["accuracy"]
    limits = [
        f"The classifier is wrong on {wrong:.1%} of the test images. It knows {evaluation['num_classes']} classes and "
        "answers with one of them whatever a picture shows; its scores are not calibrated.",
        f"The encoder saw {pretraining['images_seen']:,} images, {pretraining['epochs']:.4g} passes over one data set "
        f"at {results['model']['config']['image_size']} px. How it does on other images or sizes was not measured, "
        "nor what biases it took over from its data.",
        f"This is one run, with seed {plain(str(pretraining['arguments']['seed']))}: the intervals "
        "speak of the number of test images, not of other seeds.",
    ]
    if EMBEDDED in (pretraining["dataset"], evaluation["dataset"]):
        limits.append("The embedded textures are drawn: a demonstration, which says nothing of photographs.")
    return limits
