"""The usual JPEG, fast: 8 bit, grey or YCbCr, the right way up.

Its header is read in Python and its pixels by OpenCV, which is libjpeg-turbo like Pillow and gives equal pixels, but
takes the bytes as they lie in memory and lets go of the interpreter's lock for the whole work. What is unusual in any
way, or damaged, is left to Pillow, which also says what is wrong with it.
"""

import struct

import cv2
import numpy as np

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_SCAN = 0xDA
# Baseline, extended sequential and progressive, all with Huffman codes.
_FRAMES = (0xC0, 0xC1, 0xC2)
_APP1 = 0xE1
_ADOBE = 0xEE
# Tables of Huffman codes, of quantisation, the restart interval, comments, and applications' own.
_HARMLESS = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
_ADOBE_YCBCR = 1

# By how much sides are divided while decoding; the names of OpenCV's flags say grey, where they mean bits.
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_FLAGS = {
    8: _RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: _RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: _RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: _RGB,
}

# Coefficients that are missing are zeros, which stand for this level.
_MISSING = 128
# Entropy-coded bits of no meaning: no marker in them, and neither all zeros nor all ones.
_JUNK = bytes(i * 37 % 251 for i in range(1, 250))


def usual_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that `decode_usual` may decode, None for everything else; never raises."""
    if data[:2] != _START:
        return None
    size, place = None, len(_START)
    while True:
        head = data[place : place + 4]
        if len(head) < 4 or head[0] != 0xFF:
            return None
        marker, end = head[1], place + 2 + int.from_bytes(head[2:])
        if marker == _SCAN:
            return size
        segment = data[place + 4 : end]
        if marker in _FRAMES and size is None and len(segment) >= 6:
            precision, height, width, components = struct.unpack(">BHHB", segment[:6])
            if precision != 8 or components not in (1, 3) or height == 0 or width == 0:
                return None
            size = height, width
        elif not _is_harmless(marker, segment) or end < place + 4:
            return None
        place = end


def reduction(size: tuple[int, int], min_size: int | None) -> int:
    """By how much to divide the sides of a JPEG so that they do not fall below `min_size`, as Pillow's `draft`."""
    return 1 if min_size is None else next(f for f in _FLAGS if f == 1 or min(size) // min_size >= f)


def decode_usual(data: bytes, factor: int) -> np.ndarray | None:
    """Decode a JPEG that has a `usual_size`, its sides divided by 1, 2, 4 or 8 and rounded up.

    Returns:
        8 bit RGB (height, width, 3), contiguous; None where the data may be damaged, which Pillow judges.
    """
    try:
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[factor])
    except cv2.error:
        return None
    return None if rgb is None or (rgb[-1, -1] == _MISSING).all() else rgb


def ends_in_missing_grey(corner: int | tuple[int, ...]) -> bool:
    """Whether the last pixel is what libjpeg puts where data are missing; it may also be so in a whole picture."""
    return corner == _MISSING or corner == (_MISSING,) * 3


def lengthened(data: bytes) -> bytes | None:
    """A JPEG with more entropy-coded bits at its end, or None where the end is not marked.

    They change no pixel of a whole picture, but take the place of what is missing from one that was cut short and
    given an end marker, which libjpeg would otherwise fill with grey without a word.
    """
    end = data.rfind(_END)
    return None if end < 0 else data[:end] + _JUNK + data[end:]


def _is_harmless(marker: int, segment: bytes) -> bool:
    """Whether a segment beside the frame's neither turns the picture nor gives its components another meaning."""
    if marker == _APP1:
        # An orientation in EXIF data, in either byte order, or in XMP data.
        return b"\x01\x12" not in segment and b"\x12\x01" not in segment and b"Orientation" not in segment
    if marker == _ADOBE:
        return segment[:5] == b"Adobe" and segment[-1] == _ADOBE_YCBCR
    return marker in _HARMLESS
