"""`hf-ssl data --short_side`: a resized copy of a data set as a folder, and that folder on the Hub.

A copy's folder holds `data/SPLIT-00000-of-00001.parquet`, its record `resized.json`, and a card made from the record.
"""

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem
from pyarrow import parquet

from hf_ssl.data.files import check_writable_folder, write_whole
from hf_ssl.data.inspection import format_bytes
from hf_ssl.data.resized import JPEG_QUALITY, SHARD_SIZE_MB, ResizedSplit, write_resized_split
from hf_ssl.data.rows import is_streamed, open_splits, printable
from hf_ssl.data.sources import is_hub_id, is_local, open_source, split_names
from hf_ssl.hub.card.dataset_card import compare_size, render_dataset_card
from hf_ssl.hub.publish.client import HubError, call_hub, open_hub
from hf_ssl.hub.publish.upload import check_ours, upload_folder
from hf_ssl.hub.repository.layout import list_repository
from hf_ssl.hub.repository.public import shorten_command

RECORD = "resized.json"
CARD = "README.md"
RECORD_KEYS = ("dataset", "revision", "short_side", "jpeg_quality", "num_images", "command", "versions", "splits")
VERSION_KEYS = ("hf_ssl", "pillow")
SPLIT_KEYS = tuple(field.name for field in fields(ResizedSplit))
SHARD = re.compile(r"data/[^/]+-\d{5,}-of-\d{5,}\.parquet")


def copy_dataset(
    dataset: str,
    output: Path,
    short_side: int,
    *,
    command: str,
    splits: Sequence[str] | None = None,
    image_column: str = "image",
    label_column: str | None = "label",
    jpeg_quality: int = JPEG_QUALITY,
    shard_size_mb: int = SHARD_SIZE_MB,
    num_images: int | None = None,
    num_threads: int = 2,
) -> dict[str, Any]:
    """Write a resized copy of a data set; OUTPUT is there when it is complete.

    Args:
        dataset: whatever `open_source` opens; a Hub data set is copied at one commit.
        output: the folder to write, which must not exist.
        short_side: greatest length of the images' shorter side in pixels.
        command: the command line, for the record.
        splits: names of the splits; all if None.
        image_column, label_column: of the source; the copy's are `image` and `label`.
        jpeg_quality, shard_size_mb, num_images, num_threads: as of `write_resized_split`.

    Returns:
        The copy's record.

    Raises:
        FileExistsError: `output` exists.
        NotADirectoryError, PermissionError: `output` cannot be made.
        FileNotFoundError, ConnectionError, ValueError: as `open_source` and `write_resized_split`.
    """
    if output.exists() or output.is_symlink():
        raise FileExistsError(f"'{output}' exists; choose another folder for the copy, or remove this one.")
    target = output.resolve()
    check_writable_folder(next(parent for parent in target.parents if parent.exists()))
    if not is_streamed(dataset) and target.is_relative_to(Path(dataset).expanduser().resolve()):
        raise ValueError(f"'{output}' lies in the data set '{dataset}' itself; choose a folder outside it.")
    pinned = pin(dataset)
    sources = open_splits(pinned, splits, image_column=image_column, label_column=label_column)
    name, revision = sources[0].name, sources[0].revision
    local = is_local(name, revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch, target.name)
        folder.mkdir()
        copied = [
            write_resized_split(
                source,
                folder,
                short_side,
                jpeg_quality=jpeg_quality,
                shard_size_mb=shard_size_mb,
                num_images=num_images,
                num_threads=num_threads,
            )
            for source in sources
        ]
        shown = (
            shorten_command(command, {dataset, name})
            if local
            else shorten_command(_pin_in(command, dataset, pinned), set())
        )
        record = {
            "dataset": Path(name).expanduser().resolve().name if local else name,
            "revision": revision,
            "short_side": short_side,
            "jpeg_quality": jpeg_quality,
            "num_images": num_images,
            "command": shown,
            "versions": {package: version(package) for package in ("hf_ssl", "pillow", "datasets")},
            "splits": [asdict(split) for split in copied],
        }
        write_whole(folder / RECORD, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
        write_whole(folder / CARD, render_dataset_card(folder, record).encode())
        folder.rename(target)
    return record


def pin(dataset: str) -> str:
    """The data set at the commit that it has now, if it is on the Hub."""
    if not is_streamed(dataset):
        return dataset
    split_names(dataset)  # says what is wrong with a name, if anything is
    name, _, revision = dataset.partition("@")
    commit = call_hub(f"look at {name}", lambda: HfApi().dataset_info(name, revision=revision or None).sha)
    return f"{name}@{commit}"


def _pin_in(command: str, dataset: str, pinned: str) -> str:
    """The command line with the data set's commit, so that it gives the same copy later."""
    words = shlex.split(command)
    before = ["", *words][: len(words)]
    return shlex.join(
        pinned if word == dataset and flag != "--push_to_hub" else word
        for flag, word in zip(before, words, strict=True)
    )


def push_copy(folder: Path, repo_id: str, *, private: bool = False, report: Callable[[str], None] = print) -> str:
    """Make a data set repository hold a copy and read it back from there.

    Args:
        folder: what `copy_dataset` wrote; its card is written anew, for `repo_id`.
        repo_id: "org/name", made if it is not there; replaced if it holds such a copy.
        private: whether a new repository is private.
        report: called with a line of text as each step ends.

    Returns:
        The commit.

    Raises:
        ValueError: the folder is no copy, or its card is not the one that its record gives, or the name is not
            allowed.
        FileExistsError: the repository holds something else.
        PermissionError: no token, or none that may write.
        HubError, ConnectionError: the Hub cannot be reached or refuses, or gives back something else.
    """
    paths = list_repository(folder)
    if not is_copy(paths | {CARD}):
        raise ValueError(
            f"'{folder}' is not what `hf-ssl data … --short_side … --output …` wrote, so it is not pushed: give "
            "--short_side to make a copy, or a folder with nothing but a copy."
        )
    record = read_record(folder, paths)
    if CARD in paths:
        _check_card(folder, record)
    api = open_hub(repo_id, "dataset")
    write_whole(folder / CARD, render_dataset_card(folder, record, repo_id).encode())
    revision = upload_folder(
        api,
        folder,
        repo_id,
        repo_type="dataset",
        message=f"{record['dataset']} with a shorter side of {record['short_side']} pixels",
        is_ours=is_copy,
        private=private,
    )
    report(f"uploaded as commit {revision[:12]}")
    read_back(folder, record, repo_id, revision)
    report("streamed back: the number of rows of every split and the first of them are the same")
    report(f"published: {api.endpoint}/datasets/{repo_id} (commit {revision[:12]})")
    return revision


def read_record(folder: Path, paths: set[str]) -> dict[str, Any]:
    """The record of a copy.

    Args:
        folder: the copy's.
        paths: what is in it.

    Raises:
        ValueError: it is not a record of what is there.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _bad_record(folder, f"is no JSON ({error})") from error
    splits = record.get("splits") if isinstance(record, dict) else None
    if not isinstance(splits, list) or not splits:
        raise _bad_record(folder, "names no splits")
    required = [
        (record, RECORD_KEYS),
        (record.get("versions"), VERSION_KEYS),
        *((split, SPLIT_KEYS) for split in splits),
    ]
    missing = [key for part, keys in required for key in keys if not isinstance(part, dict) or key not in part]
    if missing:
        raise _bad_record(folder, f"lacks '{missing[0]}'")
    if {shard for split in splits for shard in split["shards"]} != paths - {RECORD, CARD}:
        raise _bad_record(folder, "names other files than those that are there")
    return record


def _bad_record(folder: Path, what: str) -> ValueError:
    return ValueError(
        f"The {RECORD} of '{folder}' {what}, so the folder is not pushed: make the copy anew with "
        "`hf-ssl data … --short_side … --output …`."
    )


def _check_card(folder: Path, record: dict[str, Any]) -> None:
    """Check that the card is as it was written, in the folder or for a repository, before it is written anew."""
    text = (folder / CARD).read_text(encoding="utf-8")
    repo_id = re.search(r'^rows = load_dataset\("([^"]+)"', text, re.MULTILINE)
    ids = [repo_id[1]] if repo_id and is_hub_id(repo_id[1]) else []
    if text not in [render_dataset_card(folder.resolve(), record, name) for name in (None, *ids)]:
        raise ValueError(
            f"The {CARD} of '{folder}' is not the card that its {RECORD} gives and would be replaced: move your text "
            "elsewhere and run this again, and edit the card on the Hub afterwards."
        )


def read_back(folder: Path, record: dict[str, Any], repo_id: str, revision: str) -> None:
    """Stream a copy from the Hub: the number of rows of each split, and its first row.

    Raises:
        HubError: they differ from the folder's.
    """
    for split in record["splits"]:
        name, sent = split["split"], first_row(folder, split)
        label_column = "label" if "label" in sent else None
        stream = open_source(f"{repo_id}@{revision}", split=name, label_column=label_column)
        received = next(iter(stream.dataset), None)
        shards = [f"datasets/{repo_id}@{revision}/{shard}" for shard in split["shards"]]
        rows = sum(call_hub(f"read {shard}", partial(count_rows, shard)) for shard in shards)
        if (rows, stream.num_rows, received) != (split["rows"], split["rows"], sent):
            raise HubError(
                f"The split '{name}' came back from {repo_id} differently, with {rows:,} rows of {split['rows']:,}, "
                f"so the commit {revision[:12]} should not be used; run the same command again."
            )


def count_rows(path: str) -> int:
    """The number of rows in a parquet file on the Hub, of which only the end is read."""
    with HfFileSystem().open(path) as file:
        return parquet.read_metadata(file).num_rows


def first_row(folder: Path, split: dict[str, Any]) -> dict[str, Any]:
    """The first row of a split of a copy, its image undecoded."""
    with parquet.ParquetFile(folder / split["shards"][0]) as file:
        return next(file.iter_batches(batch_size=1)).to_pylist()[0]


def copy_and_push(
    dataset: str,
    output: Path | None,
    repo_id: str,
    *,
    private: bool = False,
    report: Callable[[str], None] = print,
    **copy: Any,
) -> None:
    """Make a copy and push it. Whatever can be known to fail on the Hub fails before the copy is made.

    Args:
        dataset: whatever `open_source` opens.
        output: where the copy stays; None for a temporary folder, removed after the push and kept if it fails.
        repo_id: "org/name".
        private: whether a new repository is private.
        report: called with a line of text as each step ends.
        copy: further arguments of `copy_dataset`.

    Raises:
        As `copy_dataset` and `push_copy`.
    """
    api = open_hub(repo_id, "dataset")
    check_ours(api, repo_id, "dataset", is_copy)
    scratch = None if output is not None else Path(tempfile.mkdtemp(prefix="hf_ssl-data-"))
    folder = output if scratch is None else scratch / repo_id.split("/")[1]
    try:
        report(format_copy(copy_dataset(dataset, folder, **copy)))
    except BaseException:
        if scratch is not None:
            shutil.rmtree(scratch)
        raise
    try:
        push_copy(folder, repo_id, private=private, report=report)
    except BaseException:
        report(f"The copy is in {folder}; push it with `hf-ssl data {folder} --push_to_hub {repo_id}`.")
        raise
    if scratch is not None:
        shutil.rmtree(scratch)


def is_copy(paths: set[str]) -> bool:
    """Whether these are the paths of a copy, complete and with nothing else."""
    shards = {path for path in paths if SHARD.fullmatch(path)}
    return bool(shards) and paths - shards == {RECORD, CARD}


def format_copy(record: dict[str, Any]) -> str:
    """What became of each split, one line each."""
    lines = []
    for split in record["splits"]:
        before, after, files = split["source_bytes"], split["bytes"], len(split["shards"])
        lines.append(
            f"{printable(split['split'])}: {split['rows']:,} images, {split['resized']:,} of them resized, "
            f"{len(split['dropped']):,} left out as broken; {format_bytes(before)} became {format_bytes(after)} "
            f"({compare_size(before, after)}) in {files} {'file' if files == 1 else 'files'}"
        )
    return "\n".join(lines)
