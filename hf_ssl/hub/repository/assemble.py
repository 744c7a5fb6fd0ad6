"""A run as a Hub repository folder that plain transformers and timm load, without hf_ssl.

At its root lies a timm model: `config.json` in timm's form and `model.safetensors` with the encoder and, as its head,
the classifier of the linear probe. `pretraining/` holds the complete pretraining model, ready to go on. `README.md`
is the model card, made from `results.json`.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import yaml
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForPreTraining, PreTrainedConfig

import hf_ssl  # noqa: F401  registers the models with AutoModelForPreTraining
from hf_ssl.evaluation.compare import read_runs
from hf_ssl.evaluation.probe_run import PROBE
from hf_ssl.evaluation.results import write_results
from hf_ssl.hub.card.model_card import LICENSE, write_card
from hf_ssl.hub.repository.layout import WEIGHTS, foreign_files, list_repository
from hf_ssl.hub.repository.public import public_recipe, public_results
from hf_ssl.models.opening import open_config


def assemble_repository(run: Path, repository: Path, *, weights: bool = True) -> Path:
    """Write an evaluated run as a repository folder; whoever looks meanwhile finds the old folder or the new one.

    Args:
        run: folder of a run that `hf-ssl evaluate` has completed.
        repository: the folder to write; its name is the model's. An earlier repository folder is replaced.
        weights: False leaves both model.safetensors and the pictures of the data out, as in the project's
            `model_cards/`.

    Returns:
        The repository's path.

    Raises:
        FileNotFoundError: if `run` holds no results.json.
        FileExistsError: if `repository` exists and is something else than an earlier repository folder.
        ValueError: if the run was not probed, or by a probe that does not fit its encoder.
    """
    [results] = read_runs([run])
    if not (run / PROBE).is_file():
        raise ValueError(f"'{run}' holds no {PROBE}, the classifier; run `hf-ssl evaluate {run}` first.")
    for path in sorted(list_repository(run)):
        # A link would be followed, and what it leads to published.
        if (run / path).is_symlink():
            raise ValueError(f"'{run}' holds {path}, a link that may lead anywhere; put the file in its place.")
    target = repository.resolve()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch, "new", target.name)
        folder.mkdir(parents=True)
        _write_encoder(run, results["evaluation"], folder)
        (folder / "pretraining").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(run / "pretraining" / name, folder / "pretraining" / name)
        (folder / "pictures").mkdir()
        # Pictures show images of the data set, which a card without the model has no need to spread.
        for picture in (run / "pictures").glob("*.png") if weights else ():
            shutil.copyfile(picture, folder / "pictures" / picture.name)
        write_results(folder / "results.json", public_results(results))
        recipe = public_recipe(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")), results)
        (folder / "recipe.yaml").write_text(
            yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        write_card(folder)
        if not weights:
            for name in WEIGHTS:
                (folder / name).unlink()
        if target.exists():
            target.rename(Path(scratch, "old"))
        folder.rename(target)
    return repository


def _write_encoder(run: Path, evaluation: dict[str, Any], folder: Path) -> None:
    """Write the run's encoder with the probe's classifier as its head, as timm's config.json and model.safetensors.

    Args:
        run: has `pretraining/` and the probe's weights.
        evaluation: the section of results.json: classes, image size and crop that the probe was measured with.
        folder: where the two files go.

    Raises:
        ValueError: if the probe's weights do not fit the encoder's features and the number of classes.
    """
    pretraining = run / "pretraining"
    model = AutoModelForPreTraining.from_pretrained(
        pretraining, config=open_config(pretraining), trust_remote_code=False
    )
    encoder = model.to_timm(evaluation["num_classes"])
    probe = load_file(run / PROBE)
    head = encoder.get_classifier()
    if probe["weight"].shape != head.weight.shape:
        raise ValueError(
            f"{PROBE} of '{run}' has shape {tuple(probe['weight'].shape)}, where {head.weight.shape[0]} classes and "
            f"{head.weight.shape[1]} features are due; run `hf-ssl evaluate {run}` again."
        )
    head.load_state_dict(probe)
    _save_timm(encoder, model.config, evaluation, folder)


def _save_timm(encoder: nn.Module, config: PreTrainedConfig, evaluation: dict[str, Any], folder: Path) -> None:
    # Of what timm knows of the architecture, without the origin of weights that are not these.
    known = ("architecture", "input_size", "fixed_input_size", "num_classes", "pool_size", "first_conv", "classifier")
    encoder.pretrained_cfg = {**{key: encoder.pretrained_cfg[key] for key in known}, "license": LICENSE}
    preprocessing = {
        "input_size": (3, evaluation["image_size"], evaluation["image_size"]),
        "interpolation": "bilinear",
        "crop_pct": evaluation["crop_fraction"],
        "crop_mode": "center",
        "mean": config.image_mean,
        "std": config.image_std,
    }
    timm.models.save_for_hf(
        encoder,
        str(folder),
        model_config={"label_names": evaluation["class_names"]},
        data_config=preprocessing,
        safe_serialization=True,
    )
    # timm writes num_classes into model_args, which transformers then passes twice and fails.
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["model_args"] = config.timm_model_args
    path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_replaceable(target: Path) -> None:
    """Only folders that hold a results.json and nothing that is not written here are replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"'{target}' is a file; give the path of a folder.")
    files = list_repository(target)
    foreign = foreign_files(files)
    if files and (foreign or "results.json" not in files):
        raise FileExistsError(
            f"'{target}' holds {foreign[0] if foreign else min(files)} and is no repository folder of a run; "
            "choose another folder, or remove this one."
        )
