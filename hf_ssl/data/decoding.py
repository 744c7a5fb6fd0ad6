"""One encoded image (JPEG, PNG, ...) to one uint8 array of a fixed shape.

The whole picture is kept: it is squeezed to a square, and its height and width are returned with it, so that
a crop sampled in original coordinates keeps its exact scale and aspect ratio.
"""

import io
from pathlib import Path

import fsspec
import numpy as np
import PIL.Image
from PIL.Image import Transpose

# What undoes each EXIF orientation.
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# Orientations in which height and width change places.
_QUARTER_TURNS = (5, 6, 7, 8)


class UndecodableImageError(ValueError):
    """The bytes are not an image that can be read: truncated, not an image at all, or absurdly large."""


def decode_image(data: bytes, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image and squeeze it to `size` x `size` pixels, ignoring its aspect ratio.

    Every image becomes 8 bit RGB: greyscale is repeated, CMYK converted, 16 bit scaled down, alpha dropped,
    and of an animation the first frame is taken. The EXIF orientation is applied, as `datasets` does.
    Resizing is antialiased bilinear; a large JPEG is reduced by 2, 4 or 8 while it is decoded, never below
    `size`.

    Args:
        data: the bytes of an image file, in any format that Pillow reads.
        size: side of the returned image in pixels, at least 1.

    Returns:
        The image, uint8 of shape (3, size, size), and the (height, width) that it had before resizing.

    Raises:
        UndecodableImageError: the bytes are no image, are truncated, or hold too many pixels to be decoded.
    """
    rgb, size_before = decode_upright(data, draft_size=size)
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), PIL.Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1)), size_before


def decode_upright(data: bytes, draft_size: int | None = None) -> tuple[PIL.Image.Image, tuple[int, int]]:
    """Decode an image to 8 bit RGB, the right way up, as described at `decode_image`, without squeezing it.

    Args:
        data: the bytes of an image file.
        draft_size: a large JPEG is reduced by 2, 4 or 8 while it is decoded, to sides not below this; None leaves it.

    Returns:
        The image, and the (height, width) that it has in the file, the right way up.

    Raises:
        UndecodableImageError: the bytes are no image, are truncated, or hold too many pixels to be decoded.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if draft_size is not None:
                image.draft(None, (draft_size, draft_size))
            image.load()
            orientation = image.getexif().get(PIL.Image.ExifTags.Base.Orientation)
            rgb = _to_rgb(image)
    # Pillow's readers raise almost anything on broken files: OSError, SyntaxError, struct.error, IndexError.
    except Exception as error:
        raise UndecodableImageError(
            f"An image of {len(data)} bytes cannot be decoded ({type(error).__name__}: {error}); "
            "replace the file or remove its row."
        ) from error
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation in _QUARTER_TURNS:
        width, height = height, width
    return rgb, (height, width)


def encoded_bytes(image: dict | None) -> bytes:
    """The bytes of an image as `datasets` gives it undecoded: a dict of `bytes` and `path`.

    Raises:
        UndecodableImageError: there is no image, or its file cannot be read.
        OSError: the file is on the Hub, which fails.
    """
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise UndecodableImageError("A row holds no image; remove it.")
    if image["bytes"] is not None:
        return image["bytes"]
    # Image folders are opened without copying the files into Arrow, or without downloading them from the Hub.
    try:
        if "://" not in image["path"]:
            return Path(image["path"]).read_bytes()
        with fsspec.open(image["path"]) as file:
            return file.read()
    except OSError as error:
        # What a connection does says nothing of the image.
        if "://" in image["path"] and not isinstance(error, FileNotFoundError):
            raise
        raise UndecodableImageError(f"An image file cannot be read ({error}); restore it.") from error


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip 16 bit values at 255 instead of scaling them.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values do not fit in 16 bits")
        return PIL.Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("it holds floating-point values, whose range is unknown")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
