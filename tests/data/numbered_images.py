"""Numbered images: row i is of one colour, has label i, and a size that depends on i."""

import io

import numpy as np
import PIL.Image

NUM_ROWS = 37


def encode(pixels, file_format="PNG", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(file, file_format, **options)
    return file.getvalue()


def height_and_width(row):
    return 6 + row % 3, 8 + row % 2


def draw(row):
    return encode(np.full((*height_and_width(row), 3), 5 * row))
