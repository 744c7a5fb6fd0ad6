"""`hf-ssl evaluate RUN`: judge a pretraining run by a linear probe and by kNN, and complete its results.json."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from safetensors.torch import save_file
from transformers import AutoModel

import hf_ssl  # noqa: F401  registers the models with AutoModel
from hf_ssl.data import ImageLoader, ImageSource, open_source
from hf_ssl.errors import UsageError
from hf_ssl.evaluation.evaluate_encoder import evaluate_encoders
from hf_ssl.evaluation.knn import TEMPERATURE, K
from hf_ssl.evaluation.pictures import draw_pictures
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.results import read_results, write_results
from hf_ssl.models.encoder import choose_attention
from hf_ssl.models.opening import open_config
from hf_ssl.randomness import random_states_kept
from hf_ssl.recipes import check_choices, parse_arguments, read_recipe, take_recipe

PROBE = "probe.safetensors"


@dataclass
class DataArguments:
    """What a run is evaluated on and by; data that are left out are those the run was pretrained with."""

    dataset: str | None = field(
        default=None, metadata={"help": "Hub id (org/name@revision), folder, or 'embedded'; the run's by default."}
    )
    train_split: str | None = field(default=None, metadata={"help": "Split that the classifier is fitted to."})
    num_train_images: int | None = field(
        default=None, metadata={"help": "Images that the classifier is fitted to, the split's first; all by default."}
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split that it is measured on."})
    label_column: str | None = field(default=None, metadata={"help": "Column with the class labels."})
    crop_fraction: float = field(
        default=1.0, metadata={"help": "Share of the shorter side that is seen; 0.875 is usual at 224 px."}
    )
    encode_batch_size: int = field(default=256, metadata={"help": "Images encoded at once."})
    num_threads: int = field(default=2, metadata={"help": "Decoding threads."})
    mixed_precision: Literal["no", "bf16", "fp16"] = field(
        default="no", metadata={"help": "Autocast of the encoder; float32 by default."}
    )
    raw_pixels: bool = field(default=True, metadata={"help": "Evaluate the raw pixels too."})
    knn: bool = field(
        default=True, metadata={"help": "Classify by weighted k nearest neighbours too, beside the linear probe."}
    )
    knn_k: int = field(default=K, metadata={"help": "Training images that vote on each test image."})
    knn_temperature: float = field(
        default=TEMPERATURE, metadata={"help": "Each votes with weight exp(cosine similarity / temperature)."}
    )

    def __post_init__(self):
        check_choices(self)


def parse_probe(argv: Sequence[str], examples: Sequence[str] = ()) -> tuple[Path, DataArguments, ProbeArguments]:
    """Read `RUN [--config RECIPE] [--any_field value …]`; the help shows the examples.

    Raises:
        UsageError: no run, or an unknown flag.
        ValueError: a key of the recipe is unknown, or a value does not fit.
        FileNotFoundError: an unknown recipe.
    """
    recipe, argv = take_recipe(argv)
    runs = [argument for argument in argv[:1] if not argument.startswith("-")]
    if not runs and not {"-h", "--help"} & set(argv):
        raise UsageError(
            "No run was given; name the folder of a pretraining run first, as in hf-ssl evaluate runs/mine."
        )
    data, arguments = parse_arguments(
        argv[len(runs) :],
        read_recipe(recipe) if recipe else {},
        [DataArguments, ProbeArguments],
        prog="hf-ssl evaluate RUN",
        description="Evaluate a run by a linear probe and by kNN on the features of its frozen encoder, beside a\n"
        "random one and raw pixels. --config names a recipe of the probe, like probe_mae.",
        examples=examples,
    )
    return Path(*runs), data, arguments


@random_states_kept()
def probe_run(
    run: Path, data: DataArguments, arguments: ProbeArguments, command: str, report: Callable[[str], None] = print
) -> dict:
    """Evaluate the run's encoder, the same encoder at random initialisation, and the raw pixels.

    A process that trains may call it between two steps, in one process of several too: the random states of Python,
    numpy and torch are afterwards what they were, and so is Accelerate's state if there was one. Only timm's choice
    of attention stays as it is set here, which is as pretraining sets it too: fused on accelerators, not on CPUs.

    Writes the evaluation into RUN/results.json, the classifier into RUN/probe.safetensors (`weight` (classes,
    features) and `bias` (classes,), the batch norm folded into them) and pictures into RUN/pictures.

    Returns:
        The complete results.

    Raises:
        FileNotFoundError: if the folder holds no finished pretraining run.
        ValueError: if the data has no labels, or an argument is not allowed.
    """
    if not (run / "results.json").is_file():
        raise FileNotFoundError(f"'{run}' holds no results.json; give the folder of a finished `hf-ssl pretrain` run.")
    results = read_results(run / "results.json")
    trained_with = results["pretraining"]["arguments"]
    dataset = data.dataset or trained_with["dataset"]
    train_split = data.train_split or trained_with["train_split"]
    eval_split = data.eval_split or trained_with["eval_split"]
    device = PartialState().device

    folder = run / "pretraining"
    pretrained = AutoModel.from_pretrained(folder, config=open_config(folder), trust_remote_code=False).to(device)
    set_seed(trained_with["seed"])
    untrained = AutoModel.from_config(pretrained.config).to(device)
    for encoder in (pretrained, untrained):
        choose_attention(encoder, device, data.mixed_precision)
    config = pretrained.config

    def open_loader(split: str, num_images: int | None = None) -> tuple[ImageSource, ImageLoader]:
        source = open_source(
            dataset,
            split=split,
            image_column=trained_with["image_column"],
            label_column=data.label_column or trained_with["label_column"],
        )
        if num_images is not None:
            source = source.head(num_images)
        loader = ImageLoader(
            source,
            batch_size=data.encode_batch_size,
            image_size=trained_with["storage_size"] or config.image_size,
            shuffle=False,
            drop_last=False,
            num_threads=data.num_threads,
        )
        return source, loader

    train_source, train_loader = open_loader(train_split, data.num_train_images)
    test_source, test_loader = open_loader(eval_split)
    class_names = train_source.class_names
    if class_names is None:
        raise ValueError(f"The dataset '{dataset}' names no classes; probe on one whose label column is a ClassLabel.")
    evaluation = evaluate_encoders(
        {"pretrained": pretrained, "random": untrained},
        train_loader,
        test_loader,
        num_classes=len(class_names),
        output_size=config.image_size,
        mean=config.image_mean,
        std=config.image_std,
        arguments=arguments,
        knn_k=data.knn_k if data.knn else None,
        knn_temperature=data.knn_temperature,
        crop_fraction=data.crop_fraction,
        raw_pixels=data.raw_pixels,
        device=device,
        autocast_dtype={"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[data.mixed_precision],
        report=report,
    )
    results["evaluation"] = {
        "dataset": test_source.name,
        "revision": test_source.revision,
        "train_split": train_split,
        "split": eval_split,
        "num_train": evaluation.num_train,
        "num_test": evaluation.num_test,
        "num_classes": len(class_names),
        "class_names": class_names,
        "image_size": config.image_size,
        "crop_fraction": data.crop_fraction,
        "protocol": evaluation.protocol,
        **({"knn": {"k": data.knn_k, "temperature": data.knn_temperature}} if data.knn else {}),
        "wall_time_s": evaluation.wall_time_s,
        "command": command,
        "results": evaluation.results,
    }
    classifier = evaluation.classifiers["pretrained"]
    save_file({name: weight.contiguous() for name, weight in classifier.state_dict().items()}, run / PROBE)
    draw_pictures(run, test_loader)
    write_results(run / "results.json", results)
    return results
