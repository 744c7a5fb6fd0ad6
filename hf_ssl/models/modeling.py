"""What the models of all methods share."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from transformers import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
INDEX = ".safetensors.index.json"


class MethodPreTrainedModel(PreTrainedModel):
    """The base of every method's models: weights are read from safetensors alone."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    # Names of parameters that are never trained.
    fixed_parameters: ClassVar[tuple[str, ...]] = ()
    # Whether `forward(…, return_loss=False)` gives `projections` and `projection_loss` makes the batch's loss of them.
    supports_gradient_cache: ClassVar[bool] = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Self:
        """As `PreTrainedModel.from_pretrained`, but never from a pickle, an adapter or a file outside the folder.

        Raises:
            ValueError: if the weights are in a pickle, or a folder names weights that are not in it.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(
                "use_safetensors=False asks for a pickle, which can run code as it is read; leave it out, and convert "
                "a pickle with `hf-ssl import` first."
            )
        if "_adapter_model_path" in (kwargs.get("adapter_kwargs") or {}):
            raise ValueError(
                f"'{pretrained_model_name_or_path}' is an adapter to another model; load that model, and the adapter "
                "onto it with PEFT."
            )
        if pretrained_model_name_or_path is not None:
            _check_weights(Path(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
            if not Path(kwargs.get("subfolder") or "", pretrained_model_name_or_path).is_file():
                _check_no_adapter(str(pretrained_model_name_or_path), kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, use_safetensors=True, **kwargs)
        # transformers makes the parameters anew, and all of them trainable.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, parameter in model.named_parameters():
            if name in cls.fixed_parameters:
                parameter.requires_grad_(False)
        return loaded


def _check_weights(place: Path, subfolder: str) -> None:
    """What transformers does not check of a local folder, or of a file that is given in place of one."""
    folder = place / subfolder
    # As transformers puts the two together for a file.
    file = Path(subfolder, place)
    if file.is_file():
        if not file.name.endswith((".safetensors", INDEX)):
            raise ValueError(
                f"'{file}' is no safetensors file, and may be a pickle, which can run code as it is read; convert it "
                f"with `hf-ssl import {file} --config RECIPE --output FOLDER`."
            )
        weights = [file]
    elif folder.is_dir():
        weights = sorted(folder.iterdir())
    else:
        return
    pickles = [path for path in weights if path.suffix.lower() in PICKLES]
    if pickles and not any(path.suffix == ".safetensors" for path in weights):
        raise ValueError(
            f"'{pickles[0]}' is a pickle, which can run code as it is read, and there are no safetensors; convert it "
            f"with `hf-ssl import {pickles[0]} --config RECIPE --output FOLDER`."
        )
    for index in (path for path in weights if ".safetensors.index." in path.name):
        for shard in _shards(index):
            if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise ValueError(
                    f"'{index}' names {shard!r}, which is no safetensors file of its folder; download the model anew "
                    "from a place that you trust."
                )


def _shards(index: Path) -> list[Any]:
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{index}' maps no weights to safetensors files of its folder; download the model anew from a place that "
            "you trust."
        ) from error


def _check_no_adapter(place: str, arguments: dict[str, Any]) -> None:
    """With PEFT installed, transformers would take the weights from the model that an adapter names."""
    passed_on = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    adapter = cached_file(
        place,
        ADAPTER_CONFIG_NAME,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{name: arguments[name] for name in passed_on if arguments.get(name) is not None},
    )
    if adapter is not None:
        raise ValueError(
            f"'{place}' holds {ADAPTER_CONFIG_NAME}, an adapter to another model; load that model, and the adapter "
            "onto it with PEFT."
        )


__all__ = ["MethodPreTrainedModel"]
