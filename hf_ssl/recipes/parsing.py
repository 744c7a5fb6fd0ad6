"""From a recipe and a command line to dataclass arguments: the command line wins, unknown keys are errors."""

import argparse
import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from hf_ssl.errors import UsageError

RECIPES = Path(__file__).parent


def yaml_mapping(value: str | dict[str, Any]) -> dict[str, Any]:
    """What argparse calls to read a mapping, on the command line YAML or JSON such as `'{"depth": 6}'`."""
    mapping = yaml.safe_load(value) if isinstance(value, str) else value
    if not isinstance(mapping, dict):
        raise argparse.ArgumentTypeError(f"{value!r} is not a mapping; write it like '{{\"depth\": 6}}'")
    return mapping


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str) -> dict[str, Any]:
    """Read a shipped recipe by name, or any YAML file by path.

    A recipe that says `base: OTHER` holds only what differs from that one, a shipped recipe or a file beside it.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if the file is not a mapping of YAML.
    """
    path = Path(recipe) if Path(recipe).suffix in (".yaml", ".yml") else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no recipe '{recipe}'; {_suggestion(recipe, recipe_names())}or give the path of a YAML file. "
            f"Recipes: {', '.join(recipe_names())}."
        )
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(
            f"The recipe '{recipe}' is not valid YAML ({' '.join(str(error).split())}); mend it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"The recipe '{recipe}' is not a mapping; write lines of the form 'key: value'.")
    base = content.pop("base", None)
    if base is None:
        return content
    beside = path.parent / base
    return {**read_recipe(str(beside) if beside.is_file() else base), **content}


def take_recipe(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split `--config RECIPE` off a command line: the recipe, if any, and the other arguments."""
    parser = _RaisingParser([], add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--config")
    given, rest = parser.parse_known_args(list(argv))
    return given.config, rest


def check_choices(arguments: Any) -> None:
    """Raise a `ValueError` unless every `Literal` field of a dataclass holds one of its values.

    argparse checks what is typed, and not what comes from a recipe.
    """
    for name, kind in get_type_hints(type(arguments)).items():
        if get_origin(kind) is Literal and getattr(arguments, name) not in get_args(kind):
            raise ValueError(f"{name} is {getattr(arguments, name)!r}; choose one of {', '.join(get_args(kind))}.")


def parse_arguments(
    argv: Sequence[str],
    recipe: dict[str, Any],
    types: Iterable[type],
    prog: str,
    description: str,
    examples: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Build one instance of each dataclass from a recipe's values and the flags that override them.

    Raises:
        UsageError: a flag is unknown (the nearest is suggested), or what follows it is of the wrong kind.
        ValueError: a key of the recipe is unknown, or a value does not fit.
    """
    types = list(types)
    names = [field.name for kind in types for field in dataclasses.fields(kind)]
    for key in recipe:
        if key not in names:
            raise ValueError(f"The recipe's key '{key}' is unknown; {_suggestion(key, names)}see --help for all.")

    parser = _RaisingParser(
        types,
        prog=prog,
        description=description,
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.allow_abbrev = False
    # argparse converts defaults that are strings as if they had been typed: YAML's 1e-3 becomes a number there.
    parser.set_defaults(**{key: _as_typed(value) for key, value in recipe.items()})
    *arguments, rest = parser.parse_args_into_dataclasses(
        args=list(argv), return_remaining_strings=True, look_for_args_file=False
    )
    if rest:
        flag = rest[0].split("=")[0]
        if not flag.startswith("--"):
            raise UsageError(f"The argument '{flag}' was not expected; every option is a flag, see --help.")
        raise UsageError(
            f"The flag '{flag}' is unknown; {_suggestion(flag[2:].replace('-', '_'), names, '--')}see --help for all."
        )
    return tuple(arguments)


class _RaisingParser(HfArgumentParser):
    def error(self, message: str) -> None:
        raise UsageError(f"{message[0].upper()}{message[1:]}; see --help for what is allowed.")


def _as_typed(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _suggestion(given: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean '{prefix}{near[0]}'? Otherwise " if near else ""
