"""`hf-ssl import`: somebody else's checkpoint as a model of ours."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "turn somebody else's checkpoint into a model to go on from, without running its code"
EXAMPLES = (
    "hf-ssl import mae_pretrain_vit_base.pth --config mae_in100 --output mae-vit-base",
    "hf-ssl import moco.pth.tar --config simclr_in100_r50 --prefix state_dict.module.encoder_q --output moco-resnet50",
    "hf-ssl import vit.safetensors --config mae_in100 --image_size 384 --output mae-vit-base-384",
)


def run(argv: Sequence[str], command: str) -> None:
    """Write the folder and say what of the checkpoint is in it."""
    parser = Parser("import", SUMMARY, EXAMPLES)
    parser.epilog += (
        "\n\nEvery field of the recipe's model is a flag too, as in hf-ssl pretrain --config RECIPE --help."
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file, or a .pth, .pt, .ckpt or .bin of tensors")
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a recipe with the checkpoint's encoder")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; it must not exist")
    parser.add_argument("--prefix", help="what the encoder's names in the file begin with, if it holds several")
    arguments, of_the_model = parser.parse_known_args(argv)
    from hf_ssl.hub.convert.import_checkpoint import describe_import, import_checkpoint
    from hf_ssl.training.arguments import parse_model

    config = parse_model(arguments.config, of_the_model, parser.prog)
    origin = import_checkpoint(arguments.checkpoint, config, arguments.output, arguments.prefix)
    print(describe_import(origin))
    print(
        f"The model is in {arguments.output}; go on from it with "
        f"`hf-ssl pretrain --config {arguments.config} --initialize_from {arguments.output}`."
    )
