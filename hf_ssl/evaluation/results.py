"""results.json: the one record of a run, which tables, cards and plots are made from.

Its schema is `results.schema.json` beside this file. Pretraining writes the sections `model` and
`pretraining`; `evaluation` is absent until a probe has run.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import jsonschema

from hf_ssl import METHODS

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("results.schema.json")


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Validate results and write them as JSON; whoever reads meanwhile finds the old file or the new one.

    Raises:
        ValueError: the results do not follow the schema, or hold a number that is not finite; the file stays
            as it was.
    """
    path = Path(path)
    _validate(results, path)
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_results(path: str | Path) -> dict[str, Any]:
    """Read and validate a results.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not JSON, does not follow the schema, or is of a method that hf_ssl does not have.
    """
    path = Path(path)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore it, or run the evaluation again.") from error
    _validate(results, path)
    if results["model"]["model_type"] not in METHODS:
        raise ValueError(
            f"{path.name}: model.model_type: '{results['model']['model_type']}' is no method of hf_ssl "
            f"({', '.join(METHODS)}); give the results of one of them."
        )
    return results


def rows_by_encoder(evaluation: dict[str, Any], classifier: str = "linear_probe") -> dict[str, dict[str, Any]]:
    """The rows of `evaluation.results` of one classifier, "linear_probe" or "knn", by their encoders."""
    return {row["encoder"]: row for row in evaluation["results"] if row["classifier"] == classifier}


def find_result(results: dict[str, Any], encoder: str, classifier: str = "linear_probe") -> dict[str, Any]:
    """The row of `evaluation.results` for an encoder ("pretrained", "random" or "raw_pixels") and a classifier.

    Raises:
        KeyError: the run is not evaluated, or not on this encoder by this classifier.
    """
    rows = rows_by_encoder(results["evaluation"], classifier) if "evaluation" in results else {}
    if encoder in rows:
        return rows[encoder]
    present = ", ".join(rows) or ("none" if "evaluation" in results else "none, as the run is not evaluated")
    raise KeyError(
        f"There is no {classifier} result of the encoder '{encoder}', only of: {present}; run `hf-ssl evaluate`."
    )


def _validate(results: Any, path: Path) -> None:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(results))
    if error is not None:
        raise ValueError(
            f"{path.name}: {_key(error.absolute_path)}: {error.message}; see {SCHEMA_PATH.name} for what is allowed."
        )
    _check_finite(results, [], path)


def _check_finite(value: Any, keys: list[str | int], path: Path) -> None:
    """JSON has no numbers for infinity and NaN, and to a schema they are numbers like others."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path.name}: {_key(keys)}: {value} is not finite; record a finite number or leave it out.")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        _check_finite(item, [*keys, key], path)


def _key(keys: Any) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.lstrip(".") or "top level"
