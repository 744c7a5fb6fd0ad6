"""`hf-ssl space`: models as a Gradio app, in a folder that is ready to be a Space."""

from collections.abc import Sequence
from pathlib import Path

from hf_ssl.commands.parser import Parser

SUMMARY = "write a Gradio app of models as the folder of a Space: reconstructions, nearest images, classes"
EXAMPLES = (
    "hf-ssl space runs/simclr_report_64px runs/mae_report_64px --output space",
    'hf-ssl space org/mae-report-64px --output space --dataset PATH/tiny-imagenet-100 --title "MAE at 64 px"',
)


def run(argv: Sequence[str], command: str) -> None:
    """Write the folder, and say how to start it."""
    parser = Parser("space", SUMMARY, EXAMPLES)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folder of an evaluated run or of a repository, or a Hub id"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the folder to write; an unchanged earlier Space is replaced"
    )
    parser.add_argument("--title", help="of the app; by default it names the methods")
    parser.add_argument(
        "--dataset", help="where the searched images come from: Hub id, folder or 'embedded' (default: the probe's)"
    )
    parser.add_argument("--split", help="its split that is searched (default: the one the probe was fitted to)")
    parser.add_argument(
        "--example_split", help="its split of the examples (default: the one the probe was measured on)"
    )
    parser.add_argument("--num_images", type=int, default=1000, help="how many images are searched (default: 1000)")
    arguments = vars(parser.parse_args(argv))
    from hf_ssl.hub.space.build import GRADIO_VERSION, build_space

    folder = build_space(arguments.pop("models"), arguments.pop("output"), **arguments)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"The app is in {folder} ({size / 1e6:,.0f} MB). To try it here:")
    print(f"  pip install gradio=={GRADIO_VERSION}\n  python {folder / 'app.py'}")
    print("It holds small pictures of the data set: publish it only where the data's terms allow that.")
