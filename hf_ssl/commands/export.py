"""`hf-ssl export`: an encoder for people who have neither hf_ssl nor timm."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "write an encoder in transformers' own layout, which needs neither hf_ssl nor timm"
EXAMPLES = (
    "hf-ssl export runs/simclr_report --format transformers --output resnet50-simclr",
    "hf-ssl export org/name --output vit-base-mae",
)


def run(argv: Sequence[str], command: str) -> None:
    """Write the folder and say how near its outputs are."""
    parser = Parser("export", SUMMARY, EXAMPLES)
    parser.add_argument("source", help="a run, a repository folder, or a Hub id (org/name or org/name@revision)")
    parser.add_argument(
        "--format", choices=["transformers"], default="transformers", help="transformers: a ViTModel or ResNetModel"
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; it must not exist")
    arguments = parser.parse_args(argv)
    from hf_ssl.hub.convert.export import export_transformers

    export = export_transformers(arguments.source, arguments.output)
    print(f"{export.folder} holds a {export.architecture}; loaded again, its outputs {export.nearness}.")
