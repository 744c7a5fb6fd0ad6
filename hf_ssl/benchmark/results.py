"""The record of a benchmark: JSON that follows `results.schema.json` beside this file."""

import json
from pathlib import Path
from typing import Any

import jsonschema

FORMAT_VERSION = 1
SCHEMA = Path(__file__).with_name("results.schema.json")


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Validate results and write them.

    Raises:
        ValueError: if they do not follow the schema, or hold a number that is not finite.
    """
    _validate(results, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """Read and validate what `write_results` wrote.

    Raises:
        ValueError: if the file is no JSON or does not follow the schema.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); run `hf-ssl benchmark --json {path}` again.") from error
    _validate(results, path)
    return results


def _validate(results: dict[str, Any], path: Path) -> None:
    try:
        jsonschema.validate(results, json.loads(SCHEMA.read_text(encoding="utf-8")))
    except jsonschema.ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path) or "the whole"
        raise ValueError(
            f"{path} is no benchmark of version {FORMAT_VERSION} ({place}: {error.message[:200]}); run "
            f"`hf-ssl benchmark --json {path}` again."
        ) from error
