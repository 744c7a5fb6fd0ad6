"""What a pretraining run is made of: the arguments of data, views, optimisation and bookkeeping."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from transformers import CONFIG_MAPPING, PreTrainedConfig

from hf_ssl.augment import ViewPolicy
from hf_ssl.errors import UsageError
from hf_ssl.recipes import check_choices, parse_arguments, read_recipe, take_recipe, yaml_mapping


class Views:
    """What argparse calls to read `views`: on the command line YAML or JSON, such as `'[{crop_scale: [0.2, 1]}]'`."""

    def __new__(cls, value: str | Sequence[dict[str, Any] | ViewPolicy]) -> tuple[ViewPolicy, ...]:
        """Build one policy for each mapping of `ViewPolicy`'s fields."""
        if isinstance(value, str):
            try:
                return cls(yaml.safe_load(value))
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(f"views is {value!r}; give a list with one mapping for each view, such as '[{{}}]'.")
        known = [policy_field.name for policy_field in dataclasses.fields(ViewPolicy)]
        policies = []
        for policy in value:
            if isinstance(policy, ViewPolicy):
                policies.append(policy)
                continue
            unknown = set(policy or {}) - set(known)
            if unknown:
                raise ValueError(f"views has the unknown key '{min(unknown)}'; a view's keys are {', '.join(known)}.")
            policies.append(ViewPolicy(**(policy or {})))
        return tuple(policies)


def _argument(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class PretrainArguments:
    """Arguments of `hf-ssl pretrain` beside those of the model.

    Raises:
        ValueError: if a value is not allowed.
    """

    output_dir: str | None = _argument(None, "Folder of the run; runs/<recipe> if not given.")
    resume_from_checkpoint: str | None = _argument(None, "A checkpoint's folder, or 'latest' of output_dir.")

    initialize_from: str | None = _argument(
        None,
        "Model to start from, of the same method: Hub id, run, or folder of a model; random if not given.",
    )

    dataset: str | None = _argument(None, "Hub id (org/name@revision), folder of parquet or images, or 'embedded'.")
    train_split: str = _argument("train", "Split that is trained on.")
    eval_split: str = _argument("validation", "Split that the linear probe is tested on.")
    num_train_images: int | None = _argument(None, "Rows of the training split, for streams whose card lacks it.")
    image_column: str = _argument("image", "Column with the images.")
    label_column: str | None = _argument("label", "Column with class labels; pretraining never reads them.")
    storage_size: int | None = _argument(
        None, "Side in pixels at which whole images wait for their crops; image_size if not given."
    )
    cache: Literal["auto", "device", "memory", "disk", "none"] = _argument(
        "auto", "Where images stay once they are decoded, squeezed to storage_size; auto: where they fit, if at all."
    )
    num_threads: int = _argument(2, "Threads of each process that decode images and, on a CPU, make their views.")
    views: Views = field(
        default_factory=lambda: Views([{}]), metadata={"help": "One mapping of ViewPolicy fields for each view."}
    )

    epochs: float = _argument(100.0, "Passes over the training split.")
    max_steps: int | None = _argument(None, "Optimiser steps to stop after, if that comes before the epochs' end.")
    batch_size: int = _argument(256, "Images of each process and micro-batch.")
    gradient_accumulation_steps: int = _argument(1, "Micro-batches of an optimiser step.")
    gradient_cache_chunk_size: int | None = _argument(
        None, "Images that are encoded at a time where one loss is over more than fit into memory."
    )
    optimizer: Literal["adam", "adamw", "sgd", "lars"] = _argument("adamw", "Optimiser.")
    learning_rate: float = _argument(1e-3, "Peak learning rate, before lr_scaling.")
    lr_scaling: Literal["none", "linear", "sqrt"] = _argument(
        "none", "linear: learning_rate · effective batch / 256; sqrt: learning_rate · √(effective batch)."
    )
    lr_schedule: Literal["constant", "cosine"] = _argument("cosine", "What follows the warm-up.")
    warmup_epochs: float = _argument(0.0, "Epochs over which the learning rate rises linearly from 0.")
    weight_decay: float = _argument(0.0, "Of weights; biases, norms, positions and tokens have none.")
    momentum: float = _argument(0.9, "Of sgd and lars.")
    adam_beta1: float = _argument(0.9, "Of adam and adamw.")
    adam_beta2: float = _argument(0.999, "Of adam and adamw; 0.95 in MAE.")
    lars_trust_coefficient: float = _argument(0.001, "Of lars.")
    lars_trust_clip: bool = _argument(False, "Whether lars never raises a layer's learning rate.")
    max_grad_norm: float | None = _argument(None, "Norm that gradients are clipped to.")

    mixed_precision: Literal["no", "bf16", "fp16"] = _argument("no", "Autocast of forward and backward.")
    gradient_checkpointing: bool = _argument(False, "Recompute activations: less memory, more time.")
    channels_last: bool = _argument(True, "Memory format that convolutions are faster in; transformers do not mind.")
    compile: bool = _argument(False, "Pass the model through torch.compile.")

    seed: int = _argument(0, "Of initialisation, order, views and masks.")
    logging_steps: int = _argument(10, "Optimiser steps between log lines.")
    checkpoint_epochs: float = _argument(1.0, "Epochs between checkpoints.")
    checkpoint_limit: int = _argument(2, "Checkpoints that are kept, the newest.")
    report_to: str | None = _argument(None, "Tracker of Accelerate: tensorboard, wandb, trackio, mlflow, …")
    push_to_hub: str | None = _argument(
        None, "ORG/NAME of a repository on the Hub: every push_epochs the run is evaluated and published there."
    )
    push_epochs: float = _argument(10.0, "Epochs between tags epoch-N of push_to_hub; the last is always tagged.")
    push_private: bool = _argument(False, "Whether a repository that push_to_hub makes is private.")

    def __post_init__(self):
        self.views = Views(self.views)
        check_choices(self)
        for name in ("batch_size", "gradient_accumulation_steps", "num_threads", "logging_steps", "checkpoint_limit"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("epochs", "learning_rate", "checkpoint_epochs", "push_epochs"):
            _check(self, name, getattr(self, name) > 0, "above 0")
        for name in ("warmup_epochs", "weight_decay", "seed"):
            _check(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("momentum", "adam_beta1", "adam_beta2"):
            _check(self, name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("max_steps", "max_grad_norm", "storage_size", "gradient_cache_chunk_size"):
            _check(self, name, getattr(self, name) is None or getattr(self, name) > 0, "above 0, or left out")
        _check(self, "warmup_epochs", self.warmup_epochs < self.epochs, f"below the {self.epochs:g} epochs of the run")

    def peak_learning_rate(self, effective_batch_size: int) -> float:
        """The learning rate after warm-up, for a batch over all processes and accumulation steps."""
        factor = {"none": 1.0, "linear": effective_batch_size / 256, "sqrt": effective_batch_size**0.5}
        return self.learning_rate * factor[self.lr_scaling]


def _check(arguments: Any, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {getattr(arguments, name)}; choose a value {allowed}.")


def parse_pretrain(
    argv: Sequence[str], prog: str = "hf-ssl pretrain", examples: Sequence[str] = ()
) -> tuple[str, PretrainArguments, PreTrainedConfig]:
    """Read `--config RECIPE [--any_field value …]`.

    Returns:
        The recipe's name, the arguments with their output folder filled in, and the model's config.

    Raises:
        ValueError: an unknown key or a value that does not fit.
        FileNotFoundError: an unknown recipe.
    """
    recipe_name, argv = take_recipe(argv)
    if recipe_name is None:
        raise UsageError("No recipe was given; add --config with a recipe's name, like simclr_report, or a YAML file.")
    recipe, config_class = _read_recipe(recipe_name)
    arguments, model = parse_arguments(
        argv,
        recipe,
        [PretrainArguments, _model_arguments(config_class)],
        prog=f"{prog} --config {recipe_name}",
        description="Pretrain a model. Every field of the recipe is a flag; the command line wins.",
        examples=examples,
    )
    if arguments.dataset is None:
        raise ValueError(
            f"The recipe '{recipe_name}' names no dataset; add --dataset with a Hub id, a folder, or 'embedded'."
        )
    name = recipe_name.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")
    if arguments.output_dir is None:
        arguments.output_dir = f"runs/{name}"
    return name, arguments, config_class(**dataclasses.asdict(model))


def parse_model(recipe_name: str, argv: Sequence[str], prog: str) -> PreTrainedConfig:
    """Read the model of a recipe, changed by `[--any_field_of_the_model value …]`; the rest of the recipe stays aside.

    Raises:
        ValueError: an unknown key or a value that does not fit.
        FileNotFoundError: an unknown recipe.
    """
    recipe, config_class = _read_recipe(recipe_name)
    model_arguments = _model_arguments(config_class)
    names = {model_field.name for model_field in dataclasses.fields(model_arguments)}
    description = "Every field of the recipe's model is a flag; the command line wins."
    # All of the recipe first, so that a misspelt key of the model is not taken for one of the rest.
    parse_arguments([], recipe, [PretrainArguments, model_arguments], prog, description)
    of_the_model = {key: value for key, value in recipe.items() if key in names}
    (model,) = parse_arguments(argv, of_the_model, [model_arguments], prog, description)
    return config_class(**dataclasses.asdict(model))


def _read_recipe(recipe_name: str) -> tuple[dict[str, Any], type[PreTrainedConfig]]:
    """A recipe without its `model_type`, and the config class that this names."""
    recipe = read_recipe(recipe_name)
    model_type = recipe.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"The recipe '{recipe_name}' has the model_type {model_type!r}; set it to a method's, like 'simclr'."
        )
    return recipe, CONFIG_MAPPING[model_type]


def _model_arguments(config_class: type[PreTrainedConfig]) -> type:
    """The config's own fields as a dataclass that HfArgumentParser understands."""
    inherited = {inherited_field.name for inherited_field in dataclasses.fields(PreTrainedConfig)}
    fields = []
    for own in dataclasses.fields(config_class):
        if own.name in inherited:
            continue
        copy = field(metadata={"help": f"Of the model, see {config_class.__name__}."})
        copy.default, copy.default_factory = own.default, own.default_factory
        is_mapping = getattr(own.type, "__origin__", None) is dict
        fields.append((own.name, yaml_mapping if is_mapping else own.type, copy))
    return dataclasses.make_dataclass("ModelArguments", fields)
