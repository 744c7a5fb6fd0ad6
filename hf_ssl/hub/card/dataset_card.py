"""The card of a resized data set: everything on it comes from the copy's record and its parquet files.

The text is in `dataset_card_template.md`.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from pyarrow import parquet

from hf_ssl.data.inspection import format_bytes
from hf_ssl.data.resized import SUBSAMPLING
from hf_ssl.data.sources import EMBEDDED, is_hub_id
from hf_ssl.evaluation.compare import format_table
from hf_ssl.hub.card.markdown import code, link, plain

TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
LISTED = 100
# Sizes within this factor are said to be the same.
SAME_SIZE = 1.05
# The Hub's sizes, by their upper ends.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def render_dataset_card(copy: Path, record: dict[str, Any], repo_id: str | None = None) -> str:
    """The text of the card.

    Args:
        copy: the copy's folder, with its parquet files.
        record: what is in its resized.json.
        repo_id: where on the Hub its code finds the data; in the folder itself if not given.
    """
    features = datasets.Features.from_arrow_schema(parquet.read_schema(copy / record["splits"][0]["shards"][0]))
    name, split = repo_id or copy.name, record["splits"][0]["split"]
    dropped = [
        [plain(s["split"]), f"{b['row']:,}", plain(b["reason"])] for s in record["splits"] for b in s["dropped"]
    ]
    card = DatasetCard.from_template(
        _metadata(copy, record, features),
        template_path=str(TEMPLATE),
        title=plain(name.rsplit("/", 1)[-1]),
        summary=_summary(record),
        on_hub=repo_id is not None,
        name_code=code(name),
        name_literal=json.dumps(name, ensure_ascii=False),
        name_shell=shlex.quote(name),
        split_literal=json.dumps(split, ensure_ascii=False),
        split_shell=shlex.quote(split),
        splits_table=_splits_table(record),
        columns=_columns(features),
        steps=_steps(record),
        dropped_table=format_table(["split", "row", "why"], dropped[:LISTED]) if dropped else "",
        dropped_more=f" (the first {LISTED} of {len(dropped):,})" if len(dropped) > LISTED else "",
        source=f"The images are those of {_source(record)}.",
        version=record["versions"]["hf_ssl"],
        pillow=record["versions"]["pillow"],
        command=" ".join(record["command"].split("\n")),
    )
    return str(card).rstrip("\n") + "\n"


def _metadata(copy: Path, record: dict[str, Any], features: datasets.Features) -> DatasetCardData:
    splits = record["splits"]
    rows = sum(split["rows"] for split in splits)
    data = DatasetCardData(
        task_categories=["image-classification" if "label" in features else "image-feature-extraction"],
        size_categories=[next((name for end, name in SIZES if rows < end), "n>10M")],
        source_datasets=[record["dataset"]] if is_hub_id(record["dataset"]) else None,
        tags=["hf_ssl", "resized"],
    )
    info = datasets.DatasetInfo(
        features=features,
        splits=datasets.SplitDict(
            {
                split["split"]: datasets.SplitInfo(split["split"], split["arrow_bytes"], split["rows"])
                for split in splits
            }
        ),
        download_size=sum((copy / shard).stat().st_size for split in splits for shard in split["shards"]),
        dataset_size=sum(split["arrow_bytes"] for split in splits),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    files = [{"split": split["split"], "path": f"data/{split['split']}-*"} for split in splits]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(data)
    return data


def _summary(record: dict[str, Any]) -> str:
    before = sum(split["source_bytes"] for split in record["splits"])
    after = sum(split["bytes"] for split in record["splits"])
    part = f"the first {record['num_images']:,} images of each split of " if record["num_images"] is not None else ""
    smaller = "smaller " if before / after >= SAME_SIZE else ""
    too_long = _count_too_long(record)
    except_for = f" but for {too_long:,} very long ones" if too_long else ""
    return (
        f"A {smaller}copy, for streaming, of {part}{_source(record)}: no image{except_for} has a shorter side of "
        f"more than {record['short_side']} pixels, and {format_bytes(after)} of images stand for "
        f"{format_bytes(before)}: {compare_size(before, after)}."
    )


def compare_size(before: int, after: int) -> str:
    """How many times less bytes there are than before, in words."""
    if after / before >= SAME_SIZE:
        return f"{after / before:.1f} times more"
    return f"{before / after:.1f} times less" if before / after >= SAME_SIZE else "the same size"


def _count_too_long(record: dict[str, Any]) -> int:
    return sum(split["too_long"] for split in record["splits"])


def _source(record: dict[str, Any]) -> str:
    dataset = record["dataset"]
    if dataset == EMBEDDED:
        return "hf_ssl's embedded textures"
    if not is_hub_id(dataset):
        return f"the data set {code(dataset)}, a folder"
    return f"{link(dataset, f'https://huggingface.co/datasets/{dataset}')} (revision {code(record['revision'])})"


def _splits_table(record: dict[str, Any]) -> str:
    rows = [
        [
            plain(split["split"]),
            f"{split['rows']:,}",
            f"{split['resized']:,}",
            f"{split['rows'] - split['resized']:,}",
            f"{len(split['dropped']):,}",
            format_bytes(split["source_bytes"]),
            format_bytes(split["bytes"]),
        ]
        for split in record["splits"]
    ]
    return format_table(["split", "images", "resized", "as they were", "left out", "bytes before", "bytes"], rows)


def _columns(features: datasets.Features) -> str:
    if "label" not in features:
        return "The only column is `image`."
    label = features["label"]
    classes = f", one of {label.num_classes:,} classes by number" if isinstance(label, datasets.ClassLabel) else ""
    return f"The columns are `image` and `label`{classes}; others of the source are not in the copy."


def _steps(record: dict[str, Any]) -> list[str]:
    side, quality, too_long = record["short_side"], record["jpeg_quality"], _count_too_long(record)
    images = "image is" if too_long == 1 else "images are"
    kept = (
        [f"{too_long:,} {images} copied likewise, as no JPEG can be so long at this shorter side."] if too_long else []
    )
    return [
        f"Images whose shorter side is {side} pixels or less are copied byte for byte, whatever their format.",
        *kept,
        "The others were decoded and turned upright as their EXIF entry says, made 8 bit RGB (greyscale stays "
        "greyscale, CMYK is converted, 16 bit scaled down, alpha dropped, of animations the first frame is taken), "
        f"and resized in their aspect ratio, to a shorter side of {side} pixels, with Lanczos' filter, which is "
        "antialiased.",
        f"They were encoded as JPEG of quality {quality} with colours at half resolution ({SUBSAMPLING}). Their "
        "metadata and colour profiles were left out and the numbers of their colours not converted, as most training "
        "code ignores profiles.",
        "Rows are in the source's order, with the source's labels.",
    ]
