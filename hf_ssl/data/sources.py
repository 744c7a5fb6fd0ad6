"""Where images come from: a Hub stream, a local parquet folder, an image folder, or the embedded set.

Whatever it is, it comes out as one `ImageSource` whose rows hold undecoded images, so that shuffling,
skipping and splitting between ranks cost nothing.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
from datasets.data_files import EmptyDatasetError
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from pyarrow import ArrowInvalid, parquet

from hf_ssl.data.textures import DEFAULT_NUM_IMAGES, make_textures

EMBEDDED = "embedded"
_GREATEST_LABEL = 2**63 - 1
# What `datasets` takes as the name of a split.
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class ImageSource:
    """One split of an image data set, its images undecoded.

    Attributes:
        name: what was opened: a Hub id, a folder, or "embedded".
        split: the name of the split.
        revision: the commit of the Hub data set, None for local data.
        num_rows: number of rows in the split.
        class_names: names of the classes in the order of their integer labels, None where the data has none.
        dataset: the rows: `datasets.Dataset` (random access) or `datasets.IterableDataset` (a stream).
        image_column: column with the images, each a dict of `bytes` and `path`.
        label_column: column with integer labels, None where labels are not wanted or not there.
        root: where image files lie that rows may name: the folder, or the beginning of their addresses on the Hub;
            None where images are in the rows.
    """

    name: str
    split: str
    revision: str | None
    num_rows: int
    class_names: list[str] | None
    dataset: datasets.Dataset | datasets.IterableDataset
    image_column: str
    label_column: str | None
    root: str | None = None

    @property
    def is_stream(self) -> bool:
        """True where rows can only be read one after the other."""
        return isinstance(self.dataset, datasets.IterableDataset)

    def head(self, num_rows: int) -> "ImageSource":
        """The first rows alone.

        Raises:
            ValueError: there are fewer.
        """
        if not 0 < num_rows <= self.num_rows:
            raise ValueError(
                f"{num_rows} rows of {self.name!r} ({self.split}) were asked for, which has {self.num_rows}: "
                f"choose a number from 1 to {self.num_rows}."
            )
        dataset = self.dataset.take(num_rows) if self.is_stream else self.dataset.select(range(num_rows))
        return replace(self, dataset=dataset, num_rows=num_rows)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub repository, "org/name"."""
    return _HUB_ID.fullmatch(name) is not None


def is_local(dataset: str, revision: str | None) -> bool:
    """Whether the `dataset` of an `ImageSource` is a path here (or "embedded") and not a data set on the Hub."""
    return revision is None and (not is_hub_id(dataset) or Path(dataset).expanduser().exists())


def int64_label(label: int | None) -> int:
    """A label as training takes it, −1 for none.

    Raises:
        ValueError: an unsigned number that does not fit.
    """
    if label is not None and label > _GREATEST_LABEL:
        raise ValueError(
            f"The label {label} is greater than {_GREATEST_LABEL}: number the classes from 0, or set label_column to "
            "None for data without labels."
        )
    return -1 if label is None else label


def open_source(
    dataset: str,
    *,
    split: str,
    image_column: str = "image",
    label_column: str | None = "label",
    num_rows: int | None = None,
) -> ImageSource:
    """Open one split of an image data set.

    Args:
        dataset: "embedded"; or a folder with parquet files (`data/<split>-*.parquet`, the Hub's layout); or a
            folder with images (`<split>/<class>/*.jpg`); otherwise the id of a Hub data set, to be streamed,
            better with a branch, tag or commit as in `org/name@revision`: a commit pins the data.
        split: name of the split, e.g. "train".
        image_column: name of the column with the images.
        label_column: name of the column with integer class labels; None for data without labels.
        num_rows: number of rows of a stream, needed where neither its card nor its files (parquet) state it.

    Raises:
        FileNotFoundError: the folder or the Hub data set does not exist, or holds no data.
        ConnectionError: the Hub cannot be reached, or fails.
        PermissionError: the Hub does not know the token.
        ValueError: unknown split or column, labels that are not integers, number of rows unknown.
    """
    name, revision, root = dataset, None, None
    if dataset == EMBEDDED:
        rows = make_textures(split)
    elif Path(dataset).expanduser().is_dir():
        folder = Path(dataset).expanduser()
        rows = _open_folder(folder, split)
        root = None if _parquet_shards(folder) else os.path.abspath(folder)
        # Whole, as a relative path of two parts looks like an id on the Hub elsewhere.
        name = str(folder.resolve())
    else:
        name, revision = _parse_hub_id(dataset)
        streams, files, are_images = _open_streams(name, revision)
        root = f"hf://datasets/{name}@" if are_images else None
        _check_split(name, split, streams)
        rows = streams[split]
        if num_rows is None and not _stated_rows(rows, split):
            with _explain_hub_errors(name, revision):
                num_rows = _count_parquet_rows(files[split])
    return wrap_dataset(
        rows,
        name=name,
        split=split,
        revision=revision,
        image_column=image_column,
        label_column=label_column,
        num_rows=num_rows,
        root=root,
    )


def split_names(dataset: str) -> list[str]:
    """Names of the splits of whatever `open_source` opens, "train" first.

    Raises:
        FileNotFoundError: the folder or the Hub data set does not exist, or holds no data.
        ConnectionError: the Hub cannot be reached, or fails.
        PermissionError: the Hub does not know the token.
    """
    folder = Path(dataset).expanduser()
    if dataset == EMBEDDED:
        names = DEFAULT_NUM_IMAGES
    elif folder.is_dir():
        shards = _parquet_shards(folder)
        names = [name for name in shards if _has_rows(shards[name])] if shards else _split_folders(folder)
        if not names:
            raise FileNotFoundError(f"The parquet files in {str(folder)!r} hold no rows: give a folder with images.")
    else:
        names, _, _ = _open_streams(*_parse_hub_id(dataset))
    return sorted(names, key=lambda name: (name != "train", name))


def wrap_dataset(
    dataset: datasets.Dataset | datasets.IterableDataset,
    *,
    name: str,
    split: str,
    revision: str | None = None,
    image_column: str = "image",
    label_column: str | None = "label",
    num_rows: int | None = None,
    root: str | None = None,
) -> ImageSource:
    """Make a source of a data set that is already open, map-style or a stream.

    Args:
        dataset: the rows of one split.
        name: what to call the data set in messages and results.
        split: name of the split; the number of a stream's rows is looked up under it.
        revision: commit of the data set, for the record.
        image_column: name of the column with the images.
        label_column: name of the column with integer class labels; None for data without labels.
        num_rows: number of rows of a stream, needed where its `info` does not state it.
        root: as in `ImageSource`; without it images must be in the rows.

    Raises:
        ValueError: a column is missing or of the wrong kind, or the number of rows is unknown or wrong.
    """
    if dataset.features is None:
        dataset = dataset._resolve_features()
    features = dataset.features
    for argument, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in features:
            raise ValueError(
                f"{argument}={column!r} is not a column of {name!r}, which has {sorted(features)}: "
                f"set {argument} to one of these"
                + (" or to None for data without labels." if argument == "label_column" else ".")
            )
    if not isinstance(features[image_column], datasets.Image):
        raise ValueError(
            f"The column {image_column!r} of {name!r} holds {features[image_column]}, not images: set "
            f"image_column to one of {[c for c, f in features.items() if isinstance(f, datasets.Image)]}."
        )
    columns = [image_column]
    class_names = None
    if label_column is not None:
        columns.append(label_column)
        class_names = _class_names(name, features[label_column], label_column)
    if isinstance(dataset, datasets.IterableDataset):
        # A stream of image files is decoded in spite of the cast, once its columns are selected.
        dataset = dataset.decode(False)
    dataset = dataset.select_columns(columns).cast_column(image_column, datasets.Image(decode=False))
    return ImageSource(
        name=name,
        split=split,
        revision=revision,
        num_rows=_count_rows(dataset, name, split, num_rows),
        class_names=class_names,
        dataset=dataset,
        image_column=image_column,
        label_column=label_column,
        root=root,
    )


def _parse_hub_id(dataset: str) -> tuple[str, str | None]:
    match = re.fullmatch(rf"({_HUB_ID.pattern})(?:@([\w./-]+))?", dataset)
    if match is None:
        raise FileNotFoundError(
            f"The data folder {dataset!r} does not exist: give an existing folder, a Hub id like "
            f'"clane9/imagenet-100", or "{EMBEDDED}".'
        )
    return match[1], match[2]


def _open_folder(folder: Path, split: str) -> datasets.Dataset:
    by_split = _parquet_shards(folder)
    if by_split:
        _check_split(str(folder), split, by_split)
        _check_split_name(folder, split)
        if not _has_rows(by_split[split]):
            raise ValueError(f"The split {split!r} of {str(folder)!r} has no rows: choose another one or fill it.")
        with _explain_broken_files(folder, split):
            return datasets.load_dataset("parquet", data_files={split: by_split[split]}, split=split)

    if (folder / split).is_dir() and not _has_images(folder / split):
        raise ValueError(f"The folder {str(folder / split)!r} holds no images: choose another split or fill it.")
    splits = _split_folders(folder)
    _check_split(str(folder), split, splits)
    _check_split_name(folder, split)
    # All splits are listed even though one is opened, so that a class missing from one does not shift labels.
    files = {name: glob.escape(str(folder / name)) + "/**" for name in splits if _SPLIT_NAME.fullmatch(name)}
    # Left alone, `datasets` gives no labels to images of a single class.
    drop_labels = False if _has_one_class([folder / name for name in files]) else None
    with _explain_broken_files(folder, split):
        return datasets.load_dataset("imagefolder", data_files=files, split=split, drop_labels=drop_labels)


def _check_split_name(folder: Path, split: str) -> None:
    if not _SPLIT_NAME.fullmatch(split):
        raise ValueError(
            f"The split {split!r} of {str(folder)!r} has a name that `datasets` does not take: rename its files, or "
            "its folder, to letters, digits and underscores."
        )


@contextmanager
def _explain_broken_files(folder: Path, split: str) -> Iterator[None]:
    try:
        yield
    except (datasets.exceptions.DatasetGenerationError, ArrowInvalid) as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().split("\n")[0]
        raise ValueError(
            f"The files of the split {split!r} of {str(folder)!r} cannot be read together "
            f"({type(cause).__name__}: {reason}): replace the broken one, or give all the same columns."
        ) from error


def _has_rows(shards: list[str]) -> bool:
    """Whether parquet files hold rows; a broken one counts, as opening it says what is wrong."""
    for shard in shards:
        try:
            # The names are patterns.
            if any(parquet.read_metadata(path).num_rows for path in glob.glob(shard)):
                return True
        except ArrowInvalid:
            return True
    return False


def _has_images(folder: Path) -> bool:
    """Whether a folder holds, at any depth, something that `datasets` reads images from."""
    suffixes = (*ImageFolder.EXTENSIONS, ".zip", ".tar", ".gz", ".tgz")
    return any(
        name.lower().endswith(suffixes) and not name.startswith(".")
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def _has_one_class(splits: list[Path]) -> bool:
    """Whether the splits hold nothing but one folder of the same name, without folders in it."""
    entries = [path for split in splits for path in split.iterdir() if not path.name.startswith(".")]
    return len({path.name for path in entries}) == 1 and all(
        path.is_dir() and not any(inner.is_dir() for inner in path.iterdir()) for path in entries
    )


def _parquet_shards(folder: Path) -> dict[str, list[str]]:
    # "train-00000-of-00017.parquet" is the Hub's way of naming shards, "train.parquet" the single file's.
    by_split: dict[str, list[str]] = {}
    for shard in sorted([*folder.glob("data/*.parquet"), *folder.glob("*.parquet")]):
        by_split.setdefault(re.sub(r"-\d+(-of-\d+.*)?$", "", shard.stem), []).append(glob.escape(str(shard)))
    return by_split


def _split_folders(folder: Path) -> list[str]:
    splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    splits = [name for name in splits if _has_images(folder / name)]
    if not splits:
        raise FileNotFoundError(
            f"The folder {str(folder)!r} holds neither data/<split>-*.parquet nor <split>/<class>/*.jpg: "
            "bring the files into one of these layouts."
        )
    return splits


def _open_streams(
    dataset: str, revision: str | None
) -> tuple[datasets.IterableDatasetDict, dict[str, list[str]], bool]:
    """The rows of each split, the addresses of the files that hold them, and whether these are image files."""
    with _explain_hub_errors(dataset, revision):
        builder = datasets.load_dataset_builder(dataset, revision=revision)
        return builder.as_streaming_dataset(), builder.config.data_files, isinstance(builder, ImageFolder)


@contextmanager
def _explain_hub_errors(dataset: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"{dataset!r} (revision {revision!r}) is neither a local folder nor a data set on the Hub that "
            "you may read: check the name and the revision, or log in with `hf auth login`."
        ) from error
    except (datasets.exceptions.DataFilesNotFoundError, EmptyDatasetError) as error:
        raise FileNotFoundError(
            f"{dataset!r} (revision {revision!r}) is on the Hub but holds no data files: choose another one."
        ) from error
    except (ConnectionError, FileNotFoundError, HTTPError) as error:
        # A FileNotFoundError that is none of the above is what `datasets` makes of a Hub that answers 500.
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise PermissionError(
                f"The Hub does not know the token with which {dataset!r} was asked for: log in with `hf auth login`, "
                "or mend HF_TOKEN, or unset it for public data."
            ) from error
        raise ConnectionError(
            f"{dataset!r} is not a local folder, and the Hub cannot be reached to stream it, or fails: check the "
            f'network and try again, or give a local folder in the Hub\'s layout, or "{EMBEDDED}".'
        ) from error


def _count_parquet_rows(files: list[str]) -> int | None:
    """Number of rows in parquet files on the Hub, of which only the ends are read; None for other files."""
    if not all(file.startswith("hf://") and file.endswith(".parquet") for file in files):
        return None

    def count(file: str) -> int:
        with HfFileSystem().open(file) as opened:
            return parquet.read_metadata(opened).num_rows

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(count, files))


def _check_split(dataset: str, split: str, available: Iterable[str]) -> None:
    if split not in available:
        raise ValueError(f"{dataset!r} has no split {split!r}: set the split to one of {sorted(available)}.")


def _class_names(dataset: str, feature: object, label_column: str) -> list[str] | None:
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if isinstance(feature, datasets.Value) and "int" in feature.dtype:
        return None
    raise ValueError(
        f"The label column {label_column!r} of {dataset!r} holds {feature}, not integer class labels: set "
        "label_column to another column or to None, or encode it with `class_encode_column`."
    )


def _count_rows(dataset: datasets.Dataset | datasets.IterableDataset, name: str, split: str, given: int | None) -> int:
    if isinstance(dataset, datasets.Dataset):
        if given not in (None, dataset.num_rows):
            raise ValueError(
                f"num_rows={given} was given, but {name!r} ({split}) has {dataset.num_rows} rows: leave it "
                "out, it is for streams."
            )
        return dataset.num_rows
    if given is not None:
        return given
    stated = _stated_rows(dataset, split)
    if not stated:
        raise ValueError(
            f"The number of rows of the stream {name!r} ({split}) is unknown, its card does not state it: "
            "give it as num_rows, or download the data set and give the local folder."
        )
    return stated


def _stated_rows(dataset: datasets.IterableDataset, split: str) -> int:
    """Number of rows according to the card, 0 where it does not say."""
    info = (dataset.info.splits or {}).get(split)
    return info.num_examples if info else 0
