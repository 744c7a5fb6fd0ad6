"""Self-supervised visual representation learning for the Hugging Face ecosystem.

`import hf_ssl` registers the methods with transformers' `AutoConfig`, `AutoModel` and `AutoModelForPreTraining`. It is
quick: torch, transformers and timm are imported when a name below is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hf_ssl.registration import places, register_with_transformers

if TYPE_CHECKING:  # editors and type checkers learn the names here
    from hf_ssl.losses.nt_xent import NTXentLoss  # noqa: F401
    from hf_ssl.models.mae.modeling_mae import MAEConfig, MAEForPreTraining, MAEModel  # noqa: F401
    from hf_ssl.models.simclr.modeling_simclr import SimCLRConfig, SimCLRForPreTraining, SimCLRModel  # noqa: F401

__version__ = "0.1.0"

# Each method: its `model_type`, which is its folder under models/, and the prefix of its classes.
METHODS = {"mae": "MAE", "simclr": "SimCLR"}

_PLACES = {"NTXentLoss": "hf_ssl.losses.nt_xent", **places(METHODS)}

__all__ = sorted(_PLACES)

register_with_transformers(METHODS)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
