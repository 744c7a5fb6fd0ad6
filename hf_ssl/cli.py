"""The command line, `hf-ssl COMMAND …`: each command reads its arguments and calls one function.

Imports that take time stand inside the commands, so that help and errors come at once.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = """\
usage: hf-ssl COMMAND [--flags] [--debug]

Self-supervised visual representation learning for the Hugging Face ecosystem.

  demo      pretrain, probe and compare SimCLR and MAE on an embedded data set, in five minutes on two CPU cores
              hf-ssl demo --output demo
  pretrain  pretrain from a recipe; every field of it is a flag, several GPUs through accelerate launch
              hf-ssl pretrain --config simclr_report
              accelerate launch scripts/pretrain.py --config mae_in100 --batch_size 128
              hf-ssl pretrain --config mae_demo --output_dir runs/mae_demo --resume_from_checkpoint latest
  probe     evaluate a run: a linear probe on its frozen encoder, beside a random one and raw pixels
              hf-ssl probe runs/simclr_report
  compare   the results and the methods of several runs as tables
              hf-ssl compare runs/simclr_report runs/mae_report
  card      write a run as a Hub repository folder, with its model card, that transformers and timm load
              hf-ssl card runs/simclr_report --output simclr-resnet50
  recipes   list the recipes

`hf-ssl COMMAND --help` says more. --debug shows the traceback of an error.
"""

# What a user can cause, said in one line; anything else is a defect of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 if a run failed, 2 for a wrong command line, 130 if interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        print(f"error: There is no command '{command}'; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    from transformers.utils import logging

    # Bars are for what takes minutes, not for opening a file.
    logging.disable_progress_bar()
    try:
        COMMANDS[command](rest, shlex.join(["hf-ssl", *argv]))
    except KeyboardInterrupt as interruption:
        print(f"\n{interruption or 'Interrupted.'}", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")


def _demo(argv: Sequence[str], command: str) -> None:
    parser = _Parser("hf-ssl demo", description="The whole journey on the embedded data.", allow_abbrev=False)
    parser.add_argument("--output", default="demo", help="folder for runs, report and repositories (default: demo)")
    arguments = parser.parse_args(argv)
    from hf_ssl.demo import demo

    demo(Path(arguments.output), command)


def _pretrain(argv: Sequence[str], command: str) -> None:
    from accelerate import PartialState

    from hf_ssl.training.arguments import parse_pretrain
    from hf_ssl.training.loop import pretrain

    recipe, arguments, config = parse_pretrain(argv)
    run = pretrain(recipe, arguments, config, command)
    # One of several processes speaks.
    PartialState().print(f"The run is in {run}; probe it with `hf-ssl probe {run}`.")


def _probe(argv: Sequence[str], command: str) -> None:
    from hf_ssl.evaluation.compare import results_table
    from hf_ssl.evaluation.probe_run import parse_probe, probe_run

    run, data, arguments = parse_probe(argv)
    results = probe_run(run, data, arguments, command)
    print(f"\n{results_table([results])}")


def _compare(argv: Sequence[str], command: str) -> None:
    parser = _Parser("hf-ssl compare", description="Compare evaluated runs.", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs or of published models")
    parser.add_argument("--output", type=Path, help="folder to write the tables and pictures to, too")
    arguments = parser.parse_args(argv)
    from hf_ssl.evaluation.compare import compare, read_runs
    from hf_ssl.evaluation.report import write_report

    print(compare(read_runs(arguments.runs)))
    if arguments.output is not None:
        write_report(arguments.runs, arguments.output, "Comparison", command)


def _card(argv: Sequence[str], command: str) -> None:
    parser = _Parser(
        "hf-ssl card", description="Write a run as a Hub repository folder with its card.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("--output", type=Path, required=True, help="the repository folder; its name is the model's")
    parser.add_argument("--no_weights", action="store_true", help="leave weights and pictures of the data out")
    arguments = parser.parse_args(argv)
    from hf_ssl.hub.repository.assemble import assemble_repository

    print(assemble_repository(arguments.run, arguments.output, weights=not arguments.no_weights))


def _recipes(argv: Sequence[str], command: str) -> None:
    from hf_ssl.recipes import RECIPES, recipe_names

    for name in recipe_names():
        print(name)
        for line in (RECIPES / f"{name}.yaml").read_text().splitlines():
            if not line.startswith("#"):
                break
            print(f"    {line.removeprefix('# ')}")


COMMANDS = {
    "demo": _demo,
    "pretrain": _pretrain,
    "probe": _probe,
    "compare": _compare,
    "card": _card,
    "recipes": _recipes,
}


if __name__ == "__main__":
    sys.exit(main())
