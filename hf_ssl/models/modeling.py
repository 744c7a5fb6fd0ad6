"""What the models of all methods share."""

import json
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel

PICKLES = (".bin", ".ckpt", ".pt", ".pth")


class MethodPreTrainedModel(PreTrainedModel):
    """The base of every method's models: weights are read from safetensors alone."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

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
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, use_safetensors=True, **kwargs)


def _check_weights(place: Path, subfolder: str) -> None:
    """What transformers does not check of a local folder, or of a file that is given in place of one."""
    folder = place / subfolder
    if place.is_file():
        weights = [place]
    elif folder.is_dir():
        weights = sorted(folder.iterdir())
    else:
        return
    pickles = [path for path in weights if path.suffix in PICKLES]
    if pickles and not any(path.suffix == ".safetensors" for path in weights):
        raise ValueError(
            f"'{pickles[0]}' is a pickle, which can run code as it is read, and there are no safetensors; convert it "
            f"with `hf-ssl import {pickles[0]} --config RECIPE --output FOLDER`."
        )
    if folder / "adapter_config.json" in weights:
        raise ValueError(
            f"'{folder}' holds adapter_config.json, an adapter to another model; load that model, and the adapter "
            "onto it with PEFT."
        )
    for index in (path for path in weights if ".safetensors.index." in path.name):
        for shard in json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values():
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise ValueError(
                    f"'{index}' names '{shard}', which is no safetensors file of its folder; download the model anew "
                    "from a place that you trust."
                )


__all__ = ["MethodPreTrainedModel"]
