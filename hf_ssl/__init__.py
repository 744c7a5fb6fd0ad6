"""Self-supervised visual representation learning for the Hugging Face ecosystem.

`import hf_ssl` registers SimCLR and MAE with transformers' `AutoConfig`, `AutoModel` and `AutoModelForPreTraining`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from hf_ssl.losses.nt_xent import NTXentLoss
from hf_ssl.models.mae.configuration_mae import MAEConfig
from hf_ssl.models.mae.modeling_mae import MAEForPreTraining, MAEModel
from hf_ssl.models.simclr.configuration_simclr import SimCLRConfig
from hf_ssl.models.simclr.modeling_simclr import SimCLRForPreTraining, SimCLRModel

for _config, _model, _for_pretraining in (
    (SimCLRConfig, SimCLRModel, SimCLRForPreTraining),
    (MAEConfig, MAEModel, MAEForPreTraining),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForPreTraining.register(_config, _for_pretraining)

__version__ = "0.1.0"

__all__ = [
    "MAEConfig",
    "MAEForPreTraining",
    "MAEModel",
    "NTXentLoss",
    "SimCLRConfig",
    "SimCLRForPreTraining",
    "SimCLRModel",
]
