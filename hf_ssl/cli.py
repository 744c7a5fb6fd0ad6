"""The command line, `hf-ssl COMMAND …`: finds the command and turns what goes wrong into a line and a status.

Imports that take time stand inside the commands, so that help and errors come at once.
"""

import difflib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from hf_ssl.errors import UsageError
from hf_ssl.registration import call_after_import

# The journey: the commands in the order in which they are used, each with its module in hf_ssl.commands.
JOURNEY = {
    "look around": {"demo": "demo", "recipes": "recipes", "data": "data"},
    "train": {"pretrain": "pretrain", "import": "import_checkpoint"},
    "judge": {"evaluate": "evaluate", "compare": "compare", "benchmark": "benchmark"},
    "share": {"card": "card", "publish": "publish", "doors": "doors", "export": "export", "space": "space"},
}
COMMANDS = {name: module for commands in JOURNEY.values() for name, module in commands.items()}
# Cards published by earlier versions give this name.
OTHER_NAMES = {"probe": "evaluate"}

# What a user can cause, said in one line; anything else is a defect of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)

FAILED, WRONG_COMMAND_LINE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 if a command failed, 2 if the command line was not understood, 130 if interrupted, 141
        if nobody read the output to its end.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    try:
        return _run(argv)
    except KeyboardInterrupt as interruption:
        print(f"\n{str(interruption) or 'Interrupted.'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"{_red('error:')} {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG_COMMAND_LINE if isinstance(error, UsageError) else FAILED


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(describe_journey())
        return 0
    if argv[0] in ("-V", "--version"):
        from hf_ssl import __version__

        print(f"hf_ssl {__version__}")
        return 0
    name = OTHER_NAMES.get(argv[0], argv[0])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"There is no command '{name}'; {hint}The commands are {', '.join(COMMANDS)}.")
    command = load_command(name)
    if not {"-h", "--help"} & set(argv):
        _quiet_libraries()
    with _log_on_stderr():
        command.run(argv[1:], shlex.join(["hf-ssl", *argv]))
    return 0


def load_command(name: str) -> ModuleType:
    """The module of a command: `SUMMARY`, `EXAMPLES` and `run(argv, command)`."""
    return import_module(f"hf_ssl.commands.{COMMANDS[name]}")


def describe_journey() -> str:
    """What `hf-ssl --help` prints."""
    lines = [
        "usage: hf-ssl COMMAND [--flags] [--debug]",
        "",
        "Self-supervised visual representation learning for the Hugging Face ecosystem.",
    ]
    for step, commands in JOURNEY.items():
        lines += ["", f"{step}:"]
        for name in commands:
            command = load_command(name)
            lines += [f"  {name:<10}{command.SUMMARY}", f"              {command.EXAMPLES[0]}"]
    lines += [
        "",
        "`hf-ssl COMMAND --help` says more, with examples. --debug shows the traceback of an error.",
        "Exit status: 0 done, 1 failed, 2 the command line was not understood, 130 interrupted.",
    ]
    return "\n".join(lines)


def _quiet_libraries() -> None:
    """Bars are for a terminal, and there for what takes minutes, not for opening a file."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

    def disable_loading_bars() -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()

    # Whenever that is: importing transformers takes a second, which a wrong command line need not wait for.
    call_after_import("transformers.utils.logging", disable_loading_bars)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show what the package logs: images that are replaced, the cache that was chosen."""
    logger, handler = logging.getLogger("hf_ssl"), logging.StreamHandler()
    # Of several processes the first alone tells what all do.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _red(text: str) -> str:
    is_coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return f"\033[1;31m{text}\033[0m" if is_coloured else text


if __name__ == "__main__":
    sys.exit(main())
