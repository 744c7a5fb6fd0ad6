"""`hf-ssl benchmark`: the numbers of the project's goals, side by side with the peers, and how costs grow."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "measure loader, loss, step and probe side by side with their peers"
EXAMPLES = (
    "hf-ssl benchmark",
    "hf-ssl benchmark C5 C6 C7",
    "hf-ssl benchmark loss step --json loss-and-step.json",
    "hf-ssl benchmark --output docs",
    "hf-ssl benchmark curves --output curves",
    "hf-ssl benchmark G3 G9 --dataset PATH/tiny-imagenet-100",
)


def run(argv: Sequence[str], command: str) -> None:
    """Measure, print the tables, and write them to --json and --output; `command` is named there."""
    parser = Parser("benchmark", SUMMARY, EXAMPLES)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="rows of the goals (C1 to C12 on a CPU, G1 to G9 on a CUDA GPU), subjects (loader, loss, step, probe, "
        "startup, gpu, end-to-end) or curves; all rows if none is given",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="file to write the results to, for programs; hf_ssl/benchmark/results.schema.json says what is in it",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder to write benchmarks.md, benchmarks/results.json and the curves' pictures to; without NAMEs the "
        "curves are measured too",
    )
    parser.add_argument("--repeats", type=int, default=5, help="readings of each side (default: 5)")
    parser.add_argument(
        "--dataset", type=Path, help="folder of labelled images, such as tiny-imagenet-100, for the rows that need it"
    )
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}; take at least 1 reading, 5 for numbers to publish")
    if arguments.dataset is not None and not arguments.dataset.is_dir():
        raise FileNotFoundError(f"--dataset '{arguments.dataset}' does not exist; give the folder of a data set.")
    from hf_ssl.benchmark.measuring import Options
    from hf_ssl.benchmark.run import benchmark

    benchmark(
        arguments.names,
        Options(repeats=arguments.repeats, dataset=arguments.dataset),
        command,
        json_path=arguments.json,
        output=arguments.output,
    )
