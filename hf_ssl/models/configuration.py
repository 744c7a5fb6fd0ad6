"""What the configs of all methods share."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

# ImageNet's, as timm.data.IMAGENET_DEFAULT_MEAN and _STD: importing timm takes time that configs do not need.
IMAGE_MEAN: list[float] = [0.485, 0.456, 0.406]
IMAGE_STD: list[float] = [0.229, 0.224, 0.225]

# Beside a config's fields; transformers 5.17 adds the commit as it reads.
WRITTEN_BY_TRANSFORMERS = {"model_type", "torch_dtype", "_commit_hash", "_name_or_path"}


@dataclass(frozen=True)
class MethodDescription:
    """What the comparison table and a model card say of a method, beside what they measure."""

    name: str
    paper: str
    pretraining_type: str
    objective: str
    complexity: str
    representation: str


class MethodConfig(PreTrainedConfig):
    """The base of every method's config: a config.json, maybe downloaded, may say no more than the method's fields."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build the config of a file's content; `from_pretrained` and `AutoConfig` call this.

        transformers keeps keys that it does not know, and some of them name code, kernels or other files to load.

        Raises:
            ValueError: if there is a key that is not of the method, or a value that its field does not take.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(config_dict.keys() - known - WRITTEN_BY_TRANSFORMERS)
        if unknown:
            raise ValueError(
                f"config.json has the key '{unknown[0]}', which is none of {cls.__name__}'s; remove it if you trust "
                "the rest of the file."
            )
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(
                f"config.json does not hold what {cls.__name__} takes ({' '.join(str(error).split())}); correct it."
            ) from error


__all__ = ["MethodConfig", "MethodDescription"]
