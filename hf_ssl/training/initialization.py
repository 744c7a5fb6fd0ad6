"""The model that a run starts from: random weights, or those of another run or of a published model."""

from pathlib import Path

from transformers import AutoModel, AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel

from hf_ssl.data.sources import is_hub_id
from hf_ssl.models.opening import open_config


def create_model(config: PreTrainedConfig, initialize_from: str | None) -> tuple[PreTrainedModel, str | None]:
    """Build the model of a config.

    Args:
        config: of a model that `AutoModelForPreTraining` knows.
        initialize_from: None for random weights; or a run, a repository folder, a folder of a model, or the id of a
            published model, with the same encoder. What it lacks, such as a decoder of another size, stays random.

    Returns:
        The model, and the name of the one it started from: an id on the Hub, or the name of a local folder.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it is a model of another method, or with another encoder.
    """
    if initialize_from is None:
        return AutoModelForPreTraining.from_config(config), None
    folder = Path(initialize_from)
    if folder.is_dir():
        inner = folder / "pretraining"
        place, subfolder, name = str(inner if inner.is_dir() else folder), "", folder.resolve().name
    elif is_hub_id(initialize_from):
        place, subfolder, name = initialize_from, "pretraining", initialize_from
    else:
        raise FileNotFoundError(
            f"'{initialize_from}' of --initialize_from is no folder here and no ORG/NAME of a model on the Hub; give "
            "a run, a repository folder, or such a name."
        )
    open_config(place, subfolder)  # refuses a model of another kind
    model_class = type(AutoModelForPreTraining.from_config(config))
    try:
        model, loading = model_class.from_pretrained(
            place, subfolder=subfolder, config=config, output_loading_info=True, use_safetensors=True
        )
    except RuntimeError as error:
        raise ValueError(
            f"The weights of '{initialize_from}' do not fit this run's model; give it the backbone and the sizes that "
            f"they were trained with ({place}/{subfolder}/config.json has them)."
        ) from error
    missing = sorted(set(loading["missing_keys"]) & set(AutoModel.from_config(config).state_dict()))
    if missing:
        raise ValueError(
            f"'{initialize_from}' lacks the encoder's weights '{missing[0]}', so it is of another method or backbone; "
            f"start from a {config.model_type} model with the backbone {config.backbone}."
        )
    return model, name
