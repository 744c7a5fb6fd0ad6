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
# What says how to read, which a copy that is there does not need.
READING = ("split", "image_column", "label_column", "num_images", "num_threads")
COPYING = ("output", "jpeg_quality", "shard_size_mb")


def run(argv: Sequence[str], command: str) -> None:
    """Inspect a data set; copy it if there is a --short_side; push the copy if there is a --push_to_hub."""
    parser = Parser("data", SUMMARY, EXAMPLES)
    parser.add_argument(
        "dataset",
        help="Hub id (org/name@revision), folder with data/SPLIT-*.parquet or SPLIT/CLASS/*.jpg, or 'embedded'",
    )
    parser.add_argument("--split", nargs="+", help="names of splits (default: all)")
    parser.add_argument("--image_column", help="column with the images (default: image)")
    parser.add_argument("--label_column", help="column with integer labels, 'none' for data without (default: label)")
    parser.add_argument("--num_images", type=int, help="read the first images of each split alone")
    parser.add_argument("--num_threads", type=int, help="threads that decode (default: one for each core)")
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
    if arguments.push_to_hub is not None and arguments.short_side is None and (needless := given & set(READING)):
        parser.error(f"--{min(needless)} says how to read a source, and a copy is pushed as it is; add --short_side")
    if arguments.split is not None and len(set(arguments.split)) < len(arguments.split):
        repeated = next(name for name in arguments.split if arguments.split.count(name) > 1)
        parser.error(f"--split names '{repeated}' more than once; name each split once")
    for name, path, suffix in (
        ("json", arguments.json, ".json"),
        ("contact_sheet", arguments.contact_sheet, ".png"),
    ):
        if path is not None and path.suffix.lower() != suffix:
            parser.error(f"--{name} {path} has another ending than {suffix}; give the file one")
    if arguments.private and arguments.push_to_hub is None:
        parser.error("--private says how to push, so it needs --push_to_hub")


def _columns(arguments: argparse.Namespace) -> dict[str, str | None]:
    label_column = "label" if arguments.label_column is None else arguments.label_column
    return {
        "image_column": "image" if arguments.image_column is None else arguments.image_column,
        "label_column": None if label_column.lower() == "none" else label_column,
    }


def _num_threads(arguments: argparse.Namespace) -> int:
    return (os.cpu_count() or 1) if arguments.num_threads is None else arguments.num_threads


def _inspect(arguments: argparse.Namespace) -> None:
    from hf_ssl.data.contact_sheet import ContactSheet
    from hf_ssl.data.files import check_new_file, check_writable
    from hf_ssl.data.inspection import format_inspection, inspect_dataset, write_inspection
    from hf_ssl.data.rows import open_splits

    for path in (arguments.json, arguments.contact_sheet):
        if path is not None:
            check_new_file(path)
    sources = open_splits(arguments.dataset, arguments.split, **_columns(arguments))
    name = Path(sources[0].name).expanduser().resolve().name
    picture = arguments.contact_sheet or Path(f"{name}-contact-sheet.png")
    check_writable(picture)
    sheet = ContactSheet(f"{name}, {sources[0].split}", sources[0].class_names)
    inspection = inspect_dataset(
        sources, num_images=arguments.num_images, num_threads=_num_threads(arguments), sheet=sheet
    )
    print(format_inspection(inspection))
    if arguments.json is not None:
        write_inspection(inspection, arguments.json)
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
        "num_threads": _num_threads(arguments),
    }
    if arguments.push_to_hub is not None:
        copy_and_push(arguments.dataset, arguments.output, arguments.push_to_hub, private=arguments.private, **options)
        return
    print(format_copy(copy_dataset(arguments.dataset, arguments.output, **options)))
    print(f"The copy is in {arguments.output}.")


def _push(arguments: argparse.Namespace) -> None:
    from hf_ssl.hub.publish.dataset import push_copy

    push_copy(Path(arguments.dataset), arguments.push_to_hub, private=arguments.private)
