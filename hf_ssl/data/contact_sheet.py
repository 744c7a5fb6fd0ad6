"""The contact sheet of a data set: whole pictures drawn at random, by class."""

import io
import math
import random
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib import font_manager
from matplotlib.figure import Figure

from hf_ssl.data.decoding import decode_upright, encoded_bytes
from hf_ssl.data.files import write_whole
from hf_ssl.data.rows import printable

COLUMNS = 8
ROWS = 12
# Longer side of a picture on the sheet, and the sheet's other measures, in pixels.
PICTURE = 144
GAP = 8
MARGIN = 24
HEADER = 64
NAME_COLUMN = 172
NAME_LINE = 16
# An upper bound of a letter's usual width.
LETTER = 7.2
DPI = 100
# Scripts that matplotlib's own font lacks; whichever of these is installed is asked next.
FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Arial Unicode MS",
    "Unifont",
)


@dataclass
class _Draw:
    """Pictures drawn from those of one class that were shown so far."""

    shown: int = 0
    pictures: list[PIL.Image.Image] = field(default_factory=list)


class ContactSheet:
    """Is shown the images of a split one after the other, keeps a few small ones of each class, and draws them.

    Where most classes have several pictures, each row is a class; otherwise each picture has its name below. Of many
    classes some are drawn, evenly spread over their order. The same images give the same sheet.

    Args:
        title: of the sheet.
        class_names: names in the order of labels, None for data without.
    """

    def __init__(self, title: str, class_names: Sequence[str] | None):
        self.title = title
        self.class_names = class_names
        self.random = random.Random(0)
        self.draws: dict[int | None, _Draw] = {}
        self.classes = None if class_names is None else set(_spread_out(range(len(class_names)), ROWS * COLUMNS))

    def show(self, image: dict, label: int | None, root: str | None = None) -> None:
        """Keep an image, in place of another of its class, or not.

        Args:
            image: an undecoded image that can be decoded, a dict of `bytes` and `path`.
            label: its class, None without one.
            root: of its source.
        """
        known = label is not None and label >= 0 and (self.classes is None or label < len(self.class_names))
        key = label if known else None
        if known and self.classes is not None and label not in self.classes:
            return
        if key not in self.draws and len(self.draws) > ROWS * COLUMNS:
            return
        draw = self.draws.setdefault(key, _Draw())
        capacity = COLUMNS if known else ROWS * COLUMNS
        place = draw.shown if draw.shown < capacity else self.random.randrange(draw.shown + 1)
        draw.shown += 1
        if place < capacity:
            draw.pictures[place : place + 1] = [_shrink(image, root)]

    def save(self, path: Path) -> None:
        """Draw the sheet as a PNG; the file is there when it is complete.

        Raises:
            ValueError: if no image was shown.
        """
        if not self.draws:
            raise ValueError(f"No image of {self.title} can be decoded, so there is no contact sheet.")
        file = io.BytesIO()
        with warnings.catch_warnings():
            # A letter that no font has is drawn as a box.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.draw().savefig(file, format="png", dpi=DPI)
        write_whole(path, file.getvalue())

    def draw(self) -> Figure:
        """The sheet as a figure, each picture an `AxesImage` whose extent is in pixels."""
        labels = sorted(label for label in self.draws if label is not None)
        if not labels:
            return self._draw_pictures([(picture, "") for picture in self.draws[None].pictures], "drawn at random")
        several = sorted(len(self.draws[label].pictures) for label in labels)[len(labels) // 2] > COLUMNS // 2
        if several:
            return self._draw_classes(_spread_out(labels, ROWS))
        # As many of each class as there is room for.
        each = max(1, ROWS * COLUMNS // len(labels))
        pictures = [(picture, self._name(label)) for label in labels for picture in self.draws[label].pictures[:each]]
        return self._draw_pictures(pictures, self._say_which(len(labels)))

    def _draw_classes(self, labels: list[int]) -> Figure:
        """A row for each class, its name at the left."""
        box_width, box_height = _box([picture for label in labels for picture in self.draws[label].pictures])
        columns = max(len(self.draws[label].pictures) for label in labels)
        page = _Page(NAME_COLUMN + columns * (box_width + GAP), len(labels) * (box_height + GAP))
        page.write_header(self.title, self._say_which(len(labels)))
        for row, label in enumerate(labels):
            top = row * (box_height + GAP)
            name = _wrap(self._name(label), NAME_COLUMN - GAP, 4)
            page.write(0, top + box_height / 2, name, va="center")
            for column, picture in enumerate(self.draws[label].pictures):
                page.draw(NAME_COLUMN + column * (box_width + GAP), top, box_width, box_height, picture)
        return page.figure

    def _draw_pictures(self, pictures: list[tuple[PIL.Image.Image, str]], which: str) -> Figure:
        """A grid of pictures, each with its name below."""
        box_width, box_height = _box([picture for picture, _ in pictures])
        names = [_wrap(name, box_width, 2) for _, name in pictures]
        name_lines = max(name.count("\n") + 1 for name in names) if any(names) else 0
        step = box_height + name_lines * NAME_LINE + GAP
        page = _Page(COLUMNS * (box_width + GAP), math.ceil(len(pictures) / COLUMNS) * step)
        page.write_header(self.title, which)
        for index, ((picture, _), name) in enumerate(zip(pictures, names, strict=True)):
            left, top = index % COLUMNS * (box_width + GAP), index // COLUMNS * step
            page.draw(left, top, box_width, box_height, picture)
            page.write(left + box_width / 2, top + box_height + 3, name, va="top", ha="center")
        return page.figure

    def _name(self, label: int) -> str:
        known = self.class_names is not None and 0 <= label < len(self.class_names)
        return printable(self.class_names[label]) if known else f"label {label}"

    def _say_which(self, drawn: int) -> str:
        total = len(self.draws) if self.class_names is None else len(self.class_names)
        classes = f"{total:,} classes" if drawn == total else f"{drawn} of {total:,} classes"
        return f"{classes}, images drawn at random"


class _Page:
    """A figure in pixels, from its upper left corner, with a margin and a header.

    Args:
        width: of what is drawn below the header.
        height: of that.
    """

    def __init__(self, width: float, height: float):
        # The last gap of a row is none.
        width, height = max(width, 480) + 2 * MARGIN - GAP, height + HEADER + 2 * MARGIN - GAP
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        installed = {font.name for font in font_manager.fontManager.ttflist}
        self.fonts = ["DejaVu Sans", *(font for font in FALLBACK_FONTS if font in installed)]

    def write_header(self, title: str, subtitle: str) -> None:
        self.write(0, 8 - HEADER, printable(title), va="top", fontsize=13, fontweight="bold")
        self.write(0, 34 - HEADER, subtitle, va="top", color="dimgray")

    def write(self, left: float, top: float, text: str, **options: str | float) -> None:
        """Write text as it is: a dollar sign begins no formula."""
        options = {"fontsize": 8.5, "family": self.fonts, "linespacing": 1.3} | options
        self.axes.text(MARGIN + left, MARGIN + HEADER + top, text, parse_math=False, **options)

    def draw(self, left: float, top: float, width: int, height: int, picture: PIL.Image.Image) -> None:
        """Draw a picture in the middle of a box, pixel by pixel."""
        picture = _fit(picture, width, height)
        left = round(MARGIN + left + (width - picture.width) / 2)
        top = round(MARGIN + HEADER + top + (height - picture.height) / 2)
        extent = (left, left + picture.width, top + picture.height, top)
        limits = self.axes.get_xlim(), self.axes.get_ylim()
        self.axes.imshow(np.asarray(picture), extent=extent, interpolation="none", aspect="auto")
        self.axes.set(xlim=limits[0], ylim=limits[1])


def _shrink(image: dict, root: str | None) -> PIL.Image.Image:
    picture = decode_upright(encoded_bytes(image, root), draft_size=PICTURE).rgb
    picture.thumbnail((PICTURE, PICTURE), PIL.Image.Resampling.LANCZOS)
    return picture


def _fit(picture: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """The whole picture in its own aspect ratio, as large as the box allows."""
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
    return picture.resize(size, PIL.Image.Resampling.LANCZOS)


def _box(pictures: list[PIL.Image.Image]) -> tuple[int, int]:
    """Width and height of boxes with the usual aspect ratio of these pictures."""
    aspect = np.clip(np.median([picture.width / picture.height for picture in pictures]), 2 / 3, 3 / 2)
    return (PICTURE, round(PICTURE / aspect)) if aspect >= 1 else (round(PICTURE * aspect), PICTURE)


def _spread_out(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[index * (len(items) - 1) // (count - 1)] for index in range(count)]


def _wrap(text: str, width: float, lines: int) -> str:
    """Text in at most `lines` lines of `width` pixels, shortened with an ellipsis; wide letters count double."""
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    letters = int(width / LETTER / (2 if wide else 1))
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" …"))
