"""`hf-ssl data`: what is in an image data set, and a smaller copy of it."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "inspect an image data set, or write and push a resized copy of it that streams faster"
EXAMPLES = (
    "hf-ssl data clane9/imagenet-100 --split validation --json validation.json",
    "hf-ssl data PATH/photos --contact_sheet photos.png",
    "hf-ssl data org/photos --image_column img --label_column none --num_images 10000",
    "hf-ssl data clane9/imagenet-100 --short_side 256 --output imagenet-100-256",
    "hf-ssl data clane9/imagenet-100 --short_side 256 --push_to_hub ORG/imagenet-100-256 --private",
    "hf-ssl data imagenet-100-256 --push_to_hub ORG/imagenet-100-256",
)
INSPECTING = ("json", "contact_sheet")
COPYING = ("output", "jpeg_quality", "shard_size_mb")


def run(argv: Sequence[str], command: str) -> None:
    """Inspect a data set; copy it if there is a --short_side; push the copy if there is a --push_to_hub."""
    parser = Parser("data", SUMMARY, EXAMPLES)
    parser.add_argument(
        "dataset",
        help="Hub id (org/name@revision), folder with data/SPLIT-*.parquet or SPLIT/CLASS/*.jpg, or 'embedded'",
    )
    parser.add_argument("--split", nargs="+", help="names of splits (default: all)")
    parser.add_argument("--image_column", default="image", help="column with the images (default: image)")
    parser.add_argument(
        "--label_column", default="label", help="column with integer labels, 'none' for data without (default: label)"
    )
    parser.add_argument("--num_images", type=int, help="read the first images of each split alone")
    parser.add_argument(
        "--num_threads", type=int, default=os.cpu_count() or 1, help="threads that decode (default: one for each core)"
    )
    inspecting = parser.add_argument_group("inspection")
    inspecting.add_argument("--json", type=Path, help="file to write the findings to, for programs")
    inspecting.add_argument(
        "--contact_sheet", type=Path, help="PNG to draw (default: NAME-contact-sheet.png in the current folder)"
    )
    copying = parser.add_argument_group("resized copy")
    copying.add_argument(
        "--short_side", "--short-side", type=int, help="copy, with a shorter side of at most so many pixels"
    )
    copying.add_argument("--output", type=Path, help="folder of the copy, to be made")
    copying.add_argument("--jpeg_quality", type=int, help="of resized images (default: 75; 90 is half as large again)")
    copying.add_argument("--shard_size_mb", type=int, help="megabytes of a parquet file (default: 500)")
    copying.add_argument("--push_to_hub", metavar="ORG/NAME", help="data set on the Hub to hold the copy")
    copying.add_argument("--private", action="store_true", help="make a new repository private")
    arguments = parser.parse_args(argv)
    _check_flags(parser, arguments)
    if arguments.short_side is not None:
        _copy(arguments, command)
    elif arguments.push_to_hub is not None:
        _push(arguments)
    else:
        _inspect(arguments)


def _check_flags(parser: Parser, arguments: argparse.Namespace) -> None:
    given = {name for name, value in vars(arguments).items() if value is not None}
    if arguments.short_side is None and (needless := given & set(COPYING)):
        parser.error(f"--{min(needless)} is about a copy, so it needs --short_side")
    if arguments.short_side is not None and not given & {"output", "push_to_hub"}:
        parser.error("--short_side makes a copy, so it needs --output, --push_to_hub or both")
    if given & {"short_side", "push_to_hub"} and (needless := given & set(INSPECTING)):
        parser.error(f"--{min(needless)} is about an inspection; run `hf-ssl data` once more, on the copy")
    if arguments.private and arguments.push_to_hub is None:
        parser.error("--private says how to push, so it needs --push_to_hub")


def _columns(arguments: argparse.Namespace) -> dict[str, str | None]:
    label_column = None if arguments.label_column.lower() == "none" else arguments.label_column
    return {"image_column": arguments.image_column, "label_column": label_column}


def _inspect(arguments: argparse.Namespace) -> None:
    from hf_ssl.data.contact_sheet import ContactSheet
    from hf_ssl.data.inspection import format_inspection, inspect_dataset, write_inspection
    from hf_ssl.data.rows import open_splits

    sources = open_splits(arguments.dataset, arguments.split, **_columns(arguments))
    name = Path(sources[0].name).expanduser().resolve().name
    sheet = ContactSheet(f"{name}, {sources[0].split}", sources[0].class_names)
    inspection = inspect_dataset(
        sources, num_images=arguments.num_images, num_threads=arguments.num_threads, sheet=sheet
    )
    print(format_inspection(inspection))
    if arguments.json is not None:
        write_inspection(inspection, arguments.json)
    picture = arguments.contact_sheet or Path(f"{name}-contact-sheet.png")
    sheet.save(picture)
    print(f"\nThe contact sheet is in {picture}.")


def _copy(arguments: argparse.Namespace, command: str) -> None:
    from hf_ssl.data.resized import JPEG_QUALITY, SHARD_SIZE_MB
    from hf_ssl.hub.publish.dataset import copy_and_push, copy_dataset, format_copy

    options = {
        "short_side": arguments.short_side,
        "command": command,
        "splits": arguments.split,
        **_columns(arguments),
        "jpeg_quality": JPEG_QUALITY if arguments.jpeg_quality is None else arguments.jpeg_quality,
        "shard_size_mb": SHARD_SIZE_MB if arguments.shard_size_mb is None else arguments.shard_size_mb,
        "num_images": arguments.num_images,
        "num_threads": arguments.num_threads,
    }
    if arguments.push_to_hub is not None:
        copy_and_push(arguments.dataset, arguments.output, arguments.push_to_hub, private=arguments.private, **options)
        return
    print(format_copy(copy_dataset(arguments.dataset, arguments.output, **options)))
    print(f"The copy is in {arguments.output}.")


def _push(arguments: argparse.Namespace) -> None:
    from hf_ssl.hub.publish.dataset import push_copy

    push_copy(Path(arguments.dataset), arguments.push_to_hub, private=arguments.private)
