"""`hf-ssl card`."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "write a run as a repository folder with its model card, which transformers and timm load"
EXAMPLES = (
    "hf-ssl card runs/simclr_report --output simclr-resnet50",
    "hf-ssl card runs/simclr_report --output model_cards/simclr-resnet50 --no_weights",
)


def run(argv: Sequence[str], command: str) -> None:
    """Assemble a repository folder."""
    parser = Parser("card", SUMMARY, EXAMPLES)
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("--output", type=Path, required=True, help="the repository folder; its name is the model's")
    parser.add_argument("--no_weights", action="store_true", help="leave weights and pictures of the data out")
    arguments = parser.parse_args(argv)
    from hf_ssl.hub.repository.assemble import assemble_repository

    print(assemble_repository(arguments.run, arguments.output, weights=not arguments.no_weights))
