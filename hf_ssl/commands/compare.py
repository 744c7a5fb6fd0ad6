"""`hf-ssl compare`: the results and the methods of several runs as tables."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "the results and the methods of several runs as tables"
EXAMPLES = (
    "hf-ssl compare runs/simclr_report runs/mae_report",
    "hf-ssl compare runs/simclr_report runs/mae_report --output comparison",
)


def run(argv: Sequence[str], command: str) -> None:
    """Print the tables, and write them and pictures to --output; `command` is named in the report."""
    parser = Parser("compare", SUMMARY, EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of evaluated runs or of published models")
    parser.add_argument("--output", type=Path, help="folder to write the tables and pictures to, too")
    arguments = parser.parse_args(argv)
    from hf_ssl.evaluation.compare import compare, read_runs
    from hf_ssl.evaluation.report import write_report

    print(compare(read_runs(arguments.runs)))
    if arguments.output is not None:
        write_report(arguments.runs, arguments.output, "Comparison", command)
