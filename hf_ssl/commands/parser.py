"""The argument parser of every command: help with examples, errors as one sentence."""

import argparse
from collections.abc import Sequence

from hf_ssl.errors import UsageError


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` for one command, whose errors are raised.

    Args:
        command: name of the command, as in `hf-ssl NAME`.
        summary: what it does, one line.
        examples: command lines that work.

    Raises:
        UsageError: by `parse_args`, in place of an exit, if the command line is wrong.
    """

    def __init__(self, command: str, summary: str, examples: Sequence[str]):
        super().__init__(
            prog=f"hf-ssl {command}",
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=describe_examples(examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> None:
        """Raise what argparse would print before it exits."""
        raise UsageError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")


def describe_examples(examples: Sequence[str]) -> str:
    """The end of a command's help."""
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])
