"""The folder of a Space (https://huggingface.co/docs/hub/spaces): an app for models, with all that it needs.

    README.md               the Space's settings, and two sentences
    requirements.txt        what hf_ssl depends on; the Hub brings Gradio
    app.py                  the interface, hf_ssl/hub/space/app/app.py as it is
    space.json              the title, the models' names, and how the three files above left here
    models/NAME/            a repository folder of each model
    index/                  features and small pictures of training images
    examples/               a few pictures of the split that the models were measured on
    hf_ssl/                 this package, which need not be on PyPI

A Space installs requirements.txt before its other files are there, so the package lies beside the app.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import SpaceCard, SpaceCardData, snapshot_download
from PIL import Image

import hf_ssl
from hf_ssl.data import ImageSource, open_source
from hf_ssl.data.sources import EMBEDDED, is_hub_id, is_local
from hf_ssl.evaluation.compare import read_runs
from hf_ssl.hub.card.markdown import code, link, plain
from hf_ssl.hub.card.model_card import LICENSE
from hf_ssl.hub.publish.client import call_hub
from hf_ssl.hub.repository.assemble import assemble_repository
from hf_ssl.hub.repository.layout import FILES, PICTURES, foreign_files, list_repository
from hf_ssl.hub.space.demo_model import DemoModel
from hf_ssl.hub.space.image_index import ImageIndex, index_images, read_some

# What app.py was tried with, in a browser: Gradio's major versions move arguments about.
GRADIO_VERSION = "6.31.0"
# The Hub's own choice is 3.10, where hf_ssl does not run.
PYTHON_VERSION = "3.11"
NUM_EXAMPLES = 6
APP = Path(__file__).with_name("app") / "app.py"
SPACE = "space.json"
# Whoever owns the Space may change these; space.json has their digests as they were written.
EDITABLE = ("README.md", "requirements.txt", "app.py")
# What is written here, and what running it leaves behind; models are looked at apart.
OWN = ("README.md", "requirements.txt", "app.py", SPACE, "index/*", "examples/*.jpg", "hf_ssl/*", ".gradio/*")


def build_space(
    models: Sequence[str],
    output: Path,
    *,
    title: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    example_split: str | None = None,
    num_images: int = 1000,
) -> Path:
    """Write the folder of a Space; whoever looks meanwhile finds the old folder or the new one.

    Args:
        models: folders of evaluated runs or of repositories, or repositories on the Hub, "org/name@revision".
        output: the folder to write. An earlier Space folder is replaced if nobody changed it.
        title: of the app; by default it names the methods.
        dataset: where the index and the examples come from, as `open_source` names data; by default what the first
            model was probed on, if that is no folder named by a model from the Hub. Its columns are called as in the
            first model's run.
        split: of the index; by default the one that the first model's probe was fitted to.
        example_split: of the examples; by default the one that the first model was measured on.
        num_images: size of the index; a smaller split is taken whole.

    Returns:
        The folder's path.

    Raises:
        FileNotFoundError: a model or the data set is not there, or a repository lacks a file.
        FileExistsError: `output` exists and is something else than an earlier Space folder, or one that was changed.
        HubError: the Hub cannot be reached, or refuses.
        ValueError: two models of one name, a run that was not probed, a label without a class, or a value that is
            not allowed.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; choose at least 1, 1000 is usual.")
    target = output.resolve()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch, "new", target.name)
        folder.mkdir(parents=True)
        first, *_ = [_add_model(model, folder / "models", Path(scratch, "download")) for model in models]
        if dataset is None:
            dataset = _find_data(first["evaluation"], models[0])
        columns = {name: first["pretraining"]["arguments"][name] for name in ("image_column", "label_column")}
        images = open_source(dataset, split=split or first["evaluation"]["train_split"], **columns)
        examples = open_source(dataset, split=example_split or first["evaluation"]["split"], **columns)

        loaded = [DemoModel(folder / "models" / _model_name(model)) for model in models]
        index = index_images(loaded, images, num_images)
        index.write(folder / "index")
        _write_examples(examples, max(model.storage_size for model in loaded), folder / "examples")
        title = title or f"{_enumerate(model.method for model in loaded)} on your picture"
        ids = [model.partition("@")[0] for model in models if _is_on_hub(model)]
        readme = _render_readme(title, ids, loaded, index)
        (folder / "README.md").write_text(readme, encoding="utf-8", newline="\n")
        (folder / "requirements.txt").write_text("\n".join(list_requirements()) + "\n", encoding="utf-8")
        shutil.copyfile(APP, folder / "app.py")
        about = {
            "title": title,
            "models": [model.name for model in loaded],
            "hf_ssl": hf_ssl.__version__,
            "sha256": {name: _digest(folder / name) for name in EDITABLE},
        }
        (folder / SPACE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        copy_package(Path(hf_ssl.__file__).parent, folder / "hf_ssl")
        if target.exists():
            target.rename(Path(scratch, "old"))
        folder.rename(target)
    return output


def is_space(paths: set[str]) -> bool:
    """Whether these are the paths of a Space that was written here."""
    return SPACE in paths and not _foreign_files(paths)


def copy_package(package: Path, target: Path) -> None:
    """Copy a package's files, without hidden ones and what running it left behind."""
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def list_requirements() -> list[str]:
    """What an installed hf_ssl depends on, without its extras."""
    return [line for line in importlib.metadata.requires("hf_ssl") or () if "extra ==" not in line]


def _is_on_hub(model: str) -> bool:
    return not Path(model).expanduser().is_dir()


def _model_name(model: str) -> str:
    return model.partition("@")[0].rsplit("/", 1)[-1] if _is_on_hub(model) else Path(model).expanduser().resolve().name


def _add_model(model: str, folder: Path, downloads: Path) -> dict[str, Any]:
    """Put a model's repository into a folder; return its results, where a run's still tell where its data are."""
    target = folder / _model_name(model)
    if target.exists():
        raise ValueError(f"Two models are named '{target.name}'; rename the folder of one of them.")
    path = _download(model, downloads / target.name) if _is_on_hub(model) else Path(model).expanduser()
    [results] = read_runs([path])
    # A repository has a model at its root, a run has not.
    if (path / "config.json").is_file():
        _copy_repository(path, target)
    else:
        assemble_repository(path, target)
    return results


def _download(model: str, folder: Path) -> Path:
    repo_id, _, revision = model.partition("@")
    if not is_hub_id(repo_id):
        raise FileNotFoundError(
            f"The model '{model}' is not here; give the folder of an evaluated run or of a repository, or a Hub id "
            "like org/name."
        )
    call_hub(
        f"download {model}",
        lambda: snapshot_download(
            repo_id, revision=revision or None, allow_patterns=[*FILES, PICTURES], local_dir=folder
        ),
    )
    return folder


def _copy_repository(repository: Path, target: Path) -> None:
    paths = list_repository(repository)
    missing = sorted(set(FILES) - paths)
    if missing:
        raise FileNotFoundError(
            f"'{repository}' lacks {missing[0]}; write the folder anew with `hf-ssl card RUN --output {repository}`."
        )
    for path in sorted(paths - set(foreign_files(paths))):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / path, target / path)


def _find_data(evaluation: dict[str, Any], model: str) -> str:
    """The data set that a model was probed on, as `open_source` takes it."""
    dataset, revision = evaluation["dataset"], evaluation["revision"]
    name = f"{dataset}@{revision}" if revision else dataset
    # Somebody else wrote it: it could name any folder of this machine, whose pictures would then be published.
    if _is_on_hub(model) and name != EMBEDDED and (not is_hub_id(dataset) or Path(name).expanduser().exists()):
        raise ValueError(
            f"'{model}' comes from the Hub and names the data set '{name}', which would be a folder on this machine; "
            "say with --dataset which data to show."
        )
    if dataset != EMBEDDED and is_local(dataset, revision) and not Path(dataset).expanduser().is_dir():
        raise FileNotFoundError(
            f"The data set '{dataset}' that '{model}' was probed on is not here; give its folder or Hub id with "
            "--dataset."
        )
    return name


def _write_examples(source: ImageSource, size: int, folder: Path) -> None:
    """Write a few images of a source as JPEGs with their own proportions, their shorter side `size` at most."""
    folder.mkdir()
    images = read_some(source, NUM_EXAMPLES, size)
    for number, (pixels, (height, width)) in enumerate(zip(images.images, images.sizes.tolist(), strict=True)):
        scale = min(1.0, size / min(height, width))
        shape = max(1, round(scale * width)), max(1, round(scale * height))
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(shape, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number + 1}.jpg", quality=95)


def _render_readme(title: str, ids: Sequence[str], models: Sequence[DemoModel], index: ImageIndex) -> str:
    """README.md; `ids` are those of the models that came from the Hub."""
    drawing = [model.method for model in models if model.illustration_columns]
    contents = "Reconstructions, nearest images and classes" if drawing else "Nearest images and classes"
    metadata = SpaceCardData(
        title=title,
        emoji="🧩",
        colorFrom="indigo",
        colorTo="green",
        sdk="gradio",
        sdk_version=GRADIO_VERSION,
        python_version=PYTHON_VERSION,
        app_file="app.py",
        license=LICENSE,
        models=list(ids) or None,
        datasets=[index.dataset] if is_hub_id(index.dataset) else None,
        # The Hub takes 60 characters at most.
        short_description=f"{contents} of a picture",
    )
    names = {repo_id.rsplit("/", 1)[-1]: link(repo_id, f"https://huggingface.co/{repo_id}") for repo_id in ids}
    card = SpaceCard.from_template(
        metadata,
        template_str=TEMPLATE,
        title=plain(title),
        reconstruct=f"what {_enumerate(drawing)} makes of a part of it, " if drawing else "",
        models=_enumerate(names.get(model.name, code(model.name)) for model in models),
        num_images=f"{len(index.pictures):,}",
        dataset=plain(index.dataset),
        split=code(index.split),
    )
    return str(card).rstrip("\n") + "\n"


def _enumerate(names: Iterable[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"'{target}' is a file; give the path of a folder.")
    paths = list_repository(target)
    if paths and not is_space(paths):
        raise FileExistsError(
            f"'{target}' holds {min(_foreign_files(paths) or paths)} and is no Space folder of hf_ssl; choose another "
            "folder, or remove this one."
        )
    written = (target / SPACE).read_text(encoding="utf-8", errors="replace") if paths else ""
    for name in EDITABLE:
        if name in paths and _digest(target / name) not in written:
            raise FileExistsError(
                f"'{target / name}' is not as hf-ssl wrote it; choose another folder, or remove this one."
            )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _foreign_files(paths: set[str]) -> list[str]:
    """Those paths that no Space folder of ours has, sorted."""
    foreign = []
    for path in sorted(paths):
        in_model = path.split("/", 2)[2:] if path.startswith("models/") else []
        if foreign_files(set(in_model)) or not (in_model or any(fnmatch(path, pattern) for pattern in OWN)):
            foreign.append(path)
    return foreign


TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

Drop a picture to see {{ reconstruct }}which of {{ num_images }} images of {{ dataset }}, split {{ split }}, come
nearest to it, and which classes a linear probe names. Made and measured with hf_ssl: {{ models }}.
"""
