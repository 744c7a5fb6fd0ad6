"""One encoded image (JPEG, PNG, ...) to one uint8 array of a fixed shape.

The whole picture is kept: it is squeezed to a square, and its height and width are returned with it, so that
a crop sampled in original coordinates keeps its exact scale and aspect ratio.
"""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from PIL.Image import Transpose

from hf_ssl.data.jpeg import decode_usual, ends_in_missing_grey, lengthened, reduction, usual_size

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
_AS_IT_IS = 1
# Orientations in which height and width change places.
_QUARTER_TURNS = (5, 6, 7, 8)


# A file of a repository on the Hub, or one in a zip file there.
_HUB_FILE = re.compile(r"(?:zip://[^:]*::)?(hf://[^:]*)")


class UndecodableImageError(ValueError):
    """The bytes are not an image that can be read: truncated, not an image at all, or absurdly large."""


@dataclass(frozen=True)
class Decoded:
    """An image the right way up, and what its file says.

    Attributes:
        rgb: 8 bit RGB, a JPEG possibly reduced.
        size: (height, width) that it has in the file, the right way up.
        format: of the file, such as "JPEG".
        mode: Pillow's, in the file, such as "L".
        orientation: the EXIF entry, 1 without one.
    """

    rgb: PIL.Image.Image
    size: tuple[int, int]
    format: str
    mode: str
    orientation: int


def decode_image(data: bytes, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image and squeeze it to `size` x `size` pixels, ignoring its aspect ratio.

    Every image becomes 8 bit RGB: greyscale is repeated, CMYK converted, 16 bit scaled down, alpha dropped,
    and of an animation the first frame is taken. The EXIF orientation is applied, as `datasets` does.
    Resizing is antialiased bilinear, torchvision's own; a large JPEG is reduced by 2, 4 or 8 while it is decoded,
    never below `size`. Threads run beside each other, as the work is done without the interpreter's lock.

    Args:
        data: the bytes of an image file, in any format that Pillow reads.
        size: side of the returned image in pixels, at least 1.

    Returns:
        The image, uint8 of shape (size, size, 3), contiguous, and the (height, width) that it had before resizing.

    Raises:
        UndecodableImageError: the bytes are no image, are truncated, or hold too many pixels to be decoded.
    """
    rgb, original_size = decode_reduced(data, size)
    if rgb.shape[:2] != (size, size):
        # In this order of dimensions torch knows that channels come last.
        batch = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
        squeezed = F.interpolate(batch, size=(size, size), mode="bilinear", antialias=True)
        rgb = squeezed.permute(0, 2, 3, 1)[0].contiguous().numpy()
    return rgb, original_size


def decode_reduced(data: bytes, min_size: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image to 8 bit RGB, the right way up, as described at `decode_image`, without squeezing it.

    Args:
        data: the bytes of an image file.
        min_size: a large JPEG is reduced by 2, 4 or 8 while it is decoded, to sides not below this; None leaves it.

    Returns:
        The image, uint8 of shape (h, w, 3), contiguous, and the (height, width) that it has in the file.

    Raises:
        UndecodableImageError: as `decode_image`.
    """
    size = usual_size(data)
    if size is not None and _is_within_limit(*size):
        rgb = decode_usual(data, reduction(size, min_size))
        if rgb is not None:
            return rgb, size
    decoded = decode_upright(data, min_size)
    return np.array(decoded.rgb), decoded.size


def decode_upright(data: bytes, draft_size: int | None = None) -> Decoded:
    """Decode an image of any format with Pillow, as `decode_reduced` does, and tell what its file says.

    Args:
        data: the bytes of an image file.
        draft_size: a large JPEG is reduced by 2, 4 or 8 while it is decoded, to sides not below this; None leaves it.

    Raises:
        UndecodableImageError: the bytes are no image, are truncated, or hold too many pixels to be decoded.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            # Pillow itself only warns up to twice its limit.
            if not _is_within_limit(height, width):
                raise PIL.Image.DecompressionBombError(f"{width} x {height} pixels exceed Pillow's MAX_IMAGE_PIXELS")
            mode = image.mode
            if draft_size is not None:
                image.draft(None, (draft_size, draft_size))
            image.load()
            _check_end(image, data, draft_size)
            orientation = image.getexif().get(PIL.Image.ExifTags.Base.Orientation, _AS_IT_IS)
            rgb = _to_rgb(image)
            file_format = image.format
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
    return Decoded(rgb, (height, width), file_format, mode, orientation)


def _is_within_limit(height: int, width: int) -> bool:
    return PIL.Image.MAX_IMAGE_PIXELS is None or height * width <= PIL.Image.MAX_IMAGE_PIXELS


def _check_end(image: PIL.Image.Image, data: bytes, draft_size: int | None) -> None:
    """Check that a JPEG was not cut short and closed again, which Pillow does not see.

    What neither sees: a cut at a restart marker, and a progressive JPEG that lacks only its later, finer scans.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    if not ends_in_missing_grey(image.getpixel((image.width - 1, image.height - 1))):
        return
    longer = lengthened(data)
    if longer is None:
        return
    with PIL.Image.open(io.BytesIO(longer)) as again:
        if draft_size is not None:
            again.draft(None, (draft_size, draft_size))
        again.load()
        if again.tobytes() != image.tobytes():
            raise OSError("image data end before the picture does")


def encoded_bytes(image: dict | None, root: str | None) -> bytes:
    """The bytes of an image as `datasets` gives it undecoded: a dict of `bytes` and `path`.

    A row is written by others and may name any file. A path is read only if it is that of a regular file in the data
    set's folder, or of a link there to one.

    Args:
        image: the image.
        root: where the data set's image files lie, as in `ImageSource.root`; None where no path is read.

    Raises:
        UndecodableImageError: there is no image, or its file lies elsewhere or cannot be read.
        OSError: the file is on the Hub, which fails.
    """
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise UndecodableImageError("no image in the row")
    if image["bytes"] is not None:
        return image["bytes"]
    # Image folders are opened without copying the files into Arrow, or without downloading them from the Hub.
    on_hub = root is not None and "://" in root
    try:
        if not _is_inside(image["path"], root):
            raise UndecodableImageError("the row names a file outside the data set")
        if not on_hub:
            return Path(image["path"]).read_bytes()
        with fsspec.open(image["path"]) as file:
            return file.read()
    except OSError as error:
        # What a connection does says nothing of the image.
        if on_hub and not isinstance(error, FileNotFoundError):
            raise
        raise UndecodableImageError(f"An image file cannot be read ({error}); restore it.") from error


def _is_inside(path: str, root: str | None) -> bool:
    """Whether a path leads to a regular file, or to nothing, in a folder or a repository on the Hub."""
    if root is None or "\0" in path:
        return False
    if "://" in root:
        match = _HUB_FILE.fullmatch(path)
        return match is not None and match[1].startswith(root) and ".." not in re.split("[/\\\\]", path)
    # Links are followed: folders of links into another data set are usual, and a row cannot make one.
    inside = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
    return inside and (os.path.isfile(path) or not os.path.lexists(path))


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
