"""The page on doors: each with the line of code that opens it, and the table of what was measured."""

from pathlib import Path

import hf_ssl
from hf_ssl.evaluation.compare import format_table
from hf_ssl.hub.card.markdown import code
from hf_ssl.hub.doors.stock import STOCK_DOORS
from hf_ssl.hub.doors.table import OWN_DOORS
from hf_ssl.training.environment import describe_versions

PAGE = """\
# Every door of a repository

A repository that hf_ssl has published, or the folder that `hf-ssl card` writes, opens in plain transformers, in timm,
in pipelines and in hf_ssl, and gives the same behind each door. Here is how to open each, and how far apart they are.

## How to open them

`org/name` is the repository's id on the Hub, or the path of its folder, where timm wants `local-dir:` instead of
`hf-hub:`. A revision goes behind the id for timm, as in `"hf-hub:org/name@v1"`, and into `revision="v1"` for
transformers. `picture` is a PIL image, and `pixels` what the first line makes of it. timm's own transform,
`timm.data.create_transform(**timm.data.resolve_model_data_config(model))`, makes the same.

Without hf_ssl, where transformers and timm are installed:

{stock}

`features_only=True` gives one feature map for each stage, as detection and segmentation want them. A ResNet's features
are the mean of the last map over the picture; other encoders normalise in between. The pipeline for features gives the
last hidden state unless it is asked to `pool`.

After `import hf_ssl`, which registers the models, the complete pretraining model opens too:

{own}

## What they give

{table}

Made by `{command}`, with {versions}.

- A number is the largest difference from the reference, as a share of the reference's largest value, on one smooth
  320 × 240 picture or on that of `--picture`. The doors run the same operations on the same float32 weights, at most
  in another order. The command fails, and names the door, if one does not open or differs by more than the tolerance.
- The reference for features is the encoder of the complete pretraining model, on the pixels of `AutoImageProcessor`;
  for logits, the classifier in `model.safetensors` applied to these features; for scores, the softmax of these logits;
  for pixels, timm's own transform.
- The evaluation view is what hf_ssl's linear probe shows the encoder of a picture. timm resizes the picture to whole
  pixels and cuts a square out at a whole pixel; hf_ssl samples the square where it exactly is, from the picture at
  the size that it is stored in. Where no size has to be rounded, the two agree; otherwise one may lie up to about a
  pixel beside the other. So the tolerance for its pixels is the largest step between two neighbouring pixels of the
  picture, in levels of 0 to 255. What all this makes of the features is stated and not judged.
- "–" stands where an encoder has no such door, or where nothing is judged.
"""


def write_page(path: Path, table: str, command: str) -> Path:
    """Write the page as Markdown; an earlier one is replaced.

    Args:
        path: the file.
        table: from `doors_table`.
        command: what made the table.

    Raises:
        OSError: the file cannot be written.
    """
    versions = describe_versions()
    packages = ("torch", "transformers", "timm", "hf_ssl")
    text = PAGE.format(
        stock=_lines([(door.gives, door.line) for door in STOCK_DOORS]),
        own=_lines([(door.gives, line) for door in OWN_DOORS for line in own_lines(door.line)]),
        table=table,
        command=command,
        versions=", ".join(f"{package} {versions[package]}" for package in packages),
    )
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def own_lines(line: str) -> list[str]:
    """A door's line of code, once for each method if the class in it is a method's."""
    classes = [name for name in hf_ssl.__all__ if name.endswith("ForPreTraining")]
    return [line.replace("…ForPreTraining", name) for name in classes] if "…" in line else [line]


def _lines(doors: list[tuple[str, str]]) -> str:
    return format_table(["gives", "code"], [[gives, code(line)] for gives, line in doors])
