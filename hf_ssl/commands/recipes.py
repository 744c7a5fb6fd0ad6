"""`hf-ssl recipes`."""

from collections.abc import Sequence

from hf_ssl.commands.parser import Parser

SUMMARY = "list the recipes, each with its source"
EXAMPLES = ("hf-ssl recipes",)


def run(argv: Sequence[str], command: str) -> None:
    """Print the name and the heading of each recipe."""
    Parser("recipes", SUMMARY, EXAMPLES).parse_args(argv)
    from hf_ssl.recipes import RECIPES, recipe_names

    for name in recipe_names():
        print(name)
        for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            print(f"    {line.removeprefix('# ')}")
