"""`hf-ssl doors`: open every door of repositories and compare what they give."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "open repositories in every way, transformers, timm, pipelines and hf_ssl, and compare"
EXAMPLES = (
    "hf-ssl doors simclr-resnet50 mae-vit-base",
    "hf-ssl doors org/name@v1 --picture picture.jpg",
    "hf-ssl doors simclr-resnet50 mae-vit-base --output doors.md",
)


def run(argv: Sequence[str], command: str) -> None:
    """Print the table, and write it with the code of each door to --output; `command` is named there."""
    parser = Parser("doors", SUMMARY, EXAMPLES)
    parser.add_argument(
        "repositories",
        nargs="+",
        metavar="REPOSITORY",
        help="folder of a repository, or its Hub id: ORG/NAME[@REVISION]",
    )
    parser.add_argument("--picture", type=Path, help="the picture to compare on; one is made if not given")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table and the doors' code to, too")
    arguments = parser.parse_args(argv)
    from hf_ssl.hub.doors.page import write_page
    from hf_ssl.hub.doors.table import doors_table

    table = doors_table(arguments.repositories, arguments.picture)
    print(table)
    if arguments.output is not None:
        write_page(arguments.output, table, command)
