"""`hf-ssl demo`."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "pretrain, evaluate and compare SimCLR and MAE on embedded data, in five minutes on two CPU cores"
EXAMPLES = ("hf-ssl demo", "hf-ssl demo --output /tmp/demo --max_steps 200")


def run(argv: Sequence[str], command: str) -> None:
    """The whole journey on the embedded data."""
    parser = Parser("demo", SUMMARY, EXAMPLES)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all of it (default: demo)")
    parser.add_argument("--max_steps", type=int, help="stop each pretraining early, for a shorter look")
    arguments = parser.parse_args(argv)
    from hf_ssl.demo import demo

    demo(arguments.output, command, arguments.max_steps)
