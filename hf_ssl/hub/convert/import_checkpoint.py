"""`hf-ssl import`: somebody else's checkpoint as a folder that `AutoModelForPreTraining` loads.

Nobody's layout is known here. The containers of a checkpoint ("state_dict", "model", …) and the prefixes of its names
("module.", "backbone.", "encoder_q.", …) are one path each, and the encoder is where all its names and shapes are.
"""

import argparse
import hashlib
import json
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForPreTraining, PreTrainedConfig

import hf_ssl  # noqa: F401  registers the methods with AutoModelForPreTraining

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Origin:
    """Where the weights of an imported model come from; the content of its origin.json.

    Attributes:
        file: the checkpoint's name.
        sha256: its hash.
        prefix: what its names of the encoder's weights begin with.
        encoder: how many tensors of it make the encoder.
        taken: how many make the rest of the model, by the part that they are of.
        fresh: how many tensors of the model are not in it and stay random, by part.
        left_out: how many of its tensors the model has no place for, by part.
    """

    file: str
    sha256: str
    prefix: str
    encoder: int
    taken: dict[str, int]
    fresh: dict[str, int]
    left_out: dict[str, int]


def import_checkpoint(checkpoint: Path, config: PreTrainedConfig, output: Path, prefix: str | None = None) -> Origin:
    """Write a checkpoint as config.json, model.safetensors and origin.json.

    The whole encoder must be there. The rest of the model, a decoder or a head, is taken where names and shapes are
    those of ours, and is random otherwise, from a fixed seed.

    Args:
        checkpoint: a safetensors file, or a pickle that holds tensors and plain values alone.
        config: of the model to make of it.
        output: the folder to write, which must not exist.
        prefix: what the file's names of the encoder's weights begin with, containers included; needed if it holds
            several encoders.

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if `output` exists.
        ValueError: if the file cannot be read without running code, or the encoder is not in it, or more than once.
    """
    if output.exists():
        raise FileExistsError(f"'{output}' exists already; choose another folder, or remove it.")
    tensors = read_tensors(checkpoint)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForPreTraining.from_config(config)
    encoder = model.to_timm().state_dict()
    state = model.state_dict()
    if prefix is not None and prefix and not prefix.endswith("."):
        prefix += "."
    prefix = _find_encoder(encoder, tensors, prefix, checkpoint, config.backbone)
    # Where our model has its encoder: "" or "encoder.".
    [(own_prefix, _)] = _count_by_prefix(encoder, state).most_common(1)

    used, taken, fresh = set(), [], []
    for name in state:
        of_encoder = name.startswith(own_prefix) and name.removeprefix(own_prefix) in encoder
        if of_encoder:
            source = prefix + name.removeprefix(own_prefix)
        elif prefix.endswith(own_prefix):
            source = prefix.removesuffix(own_prefix) + name
        else:
            source = None
        if source in tensors and tensors[source].shape == state[name].shape:
            state[name] = _as_weight(tensors[source], state[name].dtype, f"'{source}' of '{checkpoint}'")
            used.add(source)
            if not of_encoder:
                taken.append(name)
        elif not of_encoder:
            fresh.append(name)
    model.load_state_dict(state)

    origin = Origin(
        file=checkpoint.name,
        sha256=_sha256(checkpoint),
        prefix=prefix,
        encoder=len(used) - len(taken),
        taken=_by_part(taken),
        fresh=_by_part(fresh),
        left_out=_by_part(tensors.keys() - used, prefix),
    )
    target = output.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch, target.name)
        model.save_pretrained(folder)
        (folder / ORIGIN).write_text(json.dumps(asdict(origin), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.rename(target)
    return origin


def describe_import(origin: Origin) -> str:
    """What was taken, what stays random and what was left out, as lines of text."""
    where = f"under '{origin.prefix}'" if origin.prefix else "at its top"
    lines = [f"The encoder: {origin.encoder} tensors of {origin.file} (sha256 {origin.sha256[:12]}…), {where}."]
    for what, parts in (
        ("Taken beside it", origin.taken),
        ("Not in the file, random", origin.fresh),
        ("In the file, left out", origin.left_out),
    ):
        listed = ", ".join(f"{part} ({count})" for part, count in parts.items())
        lines.append(f"{what}: {listed or 'nothing'}.")
    return "\n".join(lines)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint on the CPU, by their path through its containers, such as "state_dict.fc.weight".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or a pickle of more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint '{path}'; give the path of a file.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"'{path}' is not in the safetensors format ({error}); take the file anew.") from error
    try:
        # The arguments of a command line, which training scripts like to store, are plain values in a shell.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle's protocol before it refuses it
            content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(_walk(content))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"'{path}' is a pickle that asks for {asked[1] if asked else 'more than tensors'}, which can run code, so "
            "it was not read; where you trust it, load it yourself and save its state_dict alone."
        ) from error
    except Exception as error:  # a broken file makes the unpickler raise whatever it likes
        raise ValueError(
            f"'{path}' is no checkpoint that torch can read ({type(error).__name__}: {' '.join(str(error).split())}); "
            "give a state_dict that torch.save wrote, or safetensors."
        ) from error


def _walk(content: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    seen = set() if seen is None else seen
    if isinstance(content, Tensor):
        if content.is_nested:
            raise ValueError(f"'{path}' is a nested tensor")
        yield path, content.detach()
    elif isinstance(content, (Mapping, list, tuple)) and id(content) not in seen:
        # A container that lies in several places has more paths than anybody can walk.
        seen.add(id(content))
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, item in items:
            yield from _walk(item, f"{path}.{key}" if path else str(key), seen)


def _as_weight(tensor: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """The tensor in the dtype of ours.

    Raises:
        ValueError: if it holds no numbers of this kind, or numbers that are not finite.
    """
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
    if not dense or not (tensor.is_floating_point() if dtype.is_floating_point else whole):
        kind = "dense floating-point numbers" if dtype.is_floating_point else "dense integers"
        raise ValueError(
            f"{where} holds {tensor.dtype} numbers, {tensor.layout} on {tensor.device.type}, where {kind} are due; "
            "save the weights as those of the plain model."
        )
    weight = tensor.to(dtype)
    if not weight.isfinite().all():
        raise ValueError(f"{where} holds numbers that are not finite; take a checkpoint from before it diverged.")
    return weight


def _find_encoder(
    encoder: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str | None, path: Path, backbone: str
) -> str:
    """The one prefix under which the file has all weights of the encoder.

    Raises:
        ValueError: if there is none, or more than one.
    """
    # Batch norms without it work the same: older torch did not have it.
    required = {name: weight for name, weight in encoder.items() if not name.endswith("num_batches_tracked")}
    counts = _count_by_prefix(required, tensors)
    complete = [found for found, count in counts.items() if count == len(required)]
    if prefix is None and len(complete) > 1:
        choices = " or ".join(f"--prefix '{found}'" for found in sorted(complete))
        raise ValueError(f"'{path}' has {len(complete)} encoders of this kind; choose one by its prefix: {choices}.")
    if prefix in complete or (prefix is None and complete):
        return complete[0] if prefix is None else prefix
    if prefix is None:
        # Names without shapes say more of what is wrong than shapes that agree by chance.
        counts = _count_by_prefix(required, tensors, shapes=False)
        if not counts:
            raise ValueError(
                f"'{path}' holds no weight of a {backbone} by name; it has {len(tensors)} tensors"
                f"{': ' if tensors else ''}{', '.join(list(tensors)[:3])}{', …' if len(tensors) > 3 else ''}. Take "
                "the recipe of its backbone."
            )
        [(prefix, _)] = counts.most_common(1)
    wrong = [
        f"'{prefix}{name}' is {tuple(tensors[prefix + name].shape)} and {tuple(weight.shape)} is due"
        if prefix + name in tensors
        else f"'{prefix}{name}' is not there"
        for name, weight in required.items()
        if prefix + name not in tensors or tensors[prefix + name].shape != weight.shape
    ]
    raise ValueError(
        f"'{path}' does not fit a {backbone} of this config, {len(wrong)} of {len(required)} weights are wrong: "
        f"{'; '.join(wrong[:3])}{'; …' if len(wrong) > 3 else ''}; take the recipe and the flags of the model that it "
        "holds, such as --image_size or --backbone_kwargs."
    )


def _count_by_prefix(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, shapes: bool = True
) -> Counter[str]:
    """How many of the wanted names, of the same shape, are found behind each prefix of the tensors' names."""
    counts = Counter()
    for name, tensor in tensors.items():
        parts = name.split(".")
        for start in range(len(parts)):
            tail = ".".join(parts[start:])
            if tail in wanted and (not shapes or wanted[tail].shape == tensor.shape):
                counts[name.removesuffix(tail)] += 1
    return counts


def _by_part(names: Iterable[str], prefix: str = "") -> dict[str, int]:
    """Names counted by as many of their components as tell them from `prefix`."""
    parts = Counter()
    for name in sorted(names):
        components = name.split(".")
        pairs = zip(components, prefix.split(".")[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        parts[".".join(components[: shared + 1])] += 1
    return dict(parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
