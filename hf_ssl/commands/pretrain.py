"""`hf-ssl pretrain`."""

from collections.abc import Sequence

from hf_ssl.commands.parser import Parser

SUMMARY = "pretrain from a recipe; every field of it is a flag, several GPUs through accelerate launch"
EXAMPLES = (
    "hf-ssl pretrain --config simclr_report",
    "accelerate launch scripts/pretrain.py --config mae_in100 --batch_size 128",
    "hf-ssl pretrain --config mae_demo --resume_from_checkpoint latest",
    "hf-ssl pretrain --config mae_64px --initialize_from ORG/MODEL --push_to_hub ORG/NAME --push_epochs 20",
)


def run(argv: Sequence[str], command: str) -> None:
    """Pretrain a model."""
    if {"-h", "--help"} & set(argv) and not any(word.split("=")[0] == "--config" for word in argv):
        parser = Parser("pretrain", SUMMARY, EXAMPLES)
        parser.add_argument("--config", help="a recipe; `hf-ssl pretrain --config RECIPE --help` lists all its flags")
        parser.parse_args(["--help"])
    from accelerate import PartialState

    from hf_ssl.hub.publish.during_training import TrainingPublisher
    from hf_ssl.training.arguments import parse_pretrain
    from hf_ssl.training.loop import pretrain

    recipe, arguments, config = parse_pretrain(argv, examples=EXAMPLES)
    publisher = TrainingPublisher(arguments) if arguments.push_to_hub is not None else None
    folder = pretrain(recipe, arguments, config, command, publisher)
    # One of several processes speaks.
    PartialState().print(f"The run is in {folder}; evaluate it with `hf-ssl evaluate {folder}`.")
