"""The command line, `hf-ssl COMMAND …`: each command parses its arguments and calls one function."""

import shlex
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command, rest = argv[0], argv[1:]
    from hf_ssl.training.arguments import parse_pretrain
    from hf_ssl.training.loop import pretrain

    recipe, arguments, config = parse_pretrain(rest)
    print(pretrain(recipe, arguments, config, shlex.join(["hf-ssl", *argv])))
    return 0
