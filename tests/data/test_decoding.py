import io
import os
import struct
import zlib

import datasets
import numpy as np
import PIL.Image
import pytest
from numbered_images import encode

from hf_ssl.data import UndecodableImageError, decode_image
from hf_ssl.data.decoding import encoded_bytes


def smooth(height, width):
    """A picture that no flip or turn leaves as it is, smooth enough for JPEG and for resizing."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * x, 255 * y, 200 * x * (1 - y)], axis=2).round().astype(np.uint8)


def save(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_an_image_of_the_right_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image, size = decode_image(encode(pixels), 32)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and size == (32, 32)
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("height, width", [(48, 96), (300, 500), (32, 20)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_the_whole_picture_is_squeezed_to_a_square(height, width, file_format):
    image, size = decode_image(encode(smooth(height, width), file_format), 32)
    assert image.shape == (3, 32, 32) and size == (height, width)
    expected = PIL.Image.fromarray(smooth(height, width)).resize((32, 32), PIL.Image.Resampling.BILINEAR)
    difference = image.transpose(1, 2, 0).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < 3


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = decode_image(encode(stripes), 16)
    # Without antialiasing every pixel would be black or white.
    assert np.abs(image.astype(int) - 127).max() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_datasets_does(orientation):
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = orientation
    data = encode(smooth(24, 40), "PNG", exif=exif)
    upright = datasets.Image().decode_example({"bytes": data, "path": None})
    image, size = decode_image(data, 16)
    assert size == (upright.height, upright.width)
    np.testing.assert_array_equal(image, decode_image(save(upright, "PNG", exif=b""), 16)[0])


def test_greyscale_and_sixteen_bit_greyscale_are_repeated_over_channels():
    grey = smooth(16, 16)[..., 0]
    np.testing.assert_array_equal(decode_image(encode(grey), 16)[0], np.stack([grey] * 3))
    low_bits = np.random.default_rng(0).integers(0, 256, grey.shape, np.uint16)
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 256 + low_bits)
    for file_format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(save(deep, file_format), 16)[0], np.stack([grey] * 3))


@pytest.mark.filterwarnings("error")
def test_palette_alpha_and_bilevel_images_become_rgb():
    rgb = PIL.Image.fromarray(smooth(16, 16))
    expected = smooth(16, 16).transpose(2, 0, 1)
    rgba = rgb.copy()
    rgba.putalpha(PIL.Image.new("L", rgb.size, 100))
    np.testing.assert_array_equal(decode_image(save(rgba, "PNG"), 16)[0], expected)

    palette = rgb.quantize(64)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(save(palette, "PNG"), 16)[0], expected)
    data = save(palette, "PNG", transparency=bytes(range(64)))
    np.testing.assert_array_equal(decode_image(data, 16)[0], expected)

    bilevel = PIL.Image.fromarray(smooth(16, 16)[..., 0] > 100)
    expected = np.stack([np.asarray(bilevel.convert("L"))] * 3)
    np.testing.assert_array_equal(decode_image(save(bilevel, "PNG"), 16)[0], expected)


def test_cmyk_jpegs_keep_their_colours():
    cmyk = PIL.Image.fromarray(smooth(64, 64)).convert("CMYK")
    image, size = decode_image(save(cmyk, "JPEG", quality=95), 64)
    assert size == (64, 64)
    difference = image.transpose(1, 2, 0).astype(int) - smooth(64, 64)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(file_format):
    red, blue = (PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = save(red, file_format, save_all=True, append_images=[blue])
    image, _ = decode_image(data, 8)
    assert image[0].min() > 240 and image[2].max() < 15


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "0 bytes"),
        (b"no image", "8 bytes"),
        (encode(smooth(64, 64), "JPEG")[:-200], "(?i)truncated"),
        (encode(smooth(64, 64))[:200], "200 bytes"),
        (png_header(100_000, 100_000), "DecompressionBomb"),
        (save(PIL.Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "floating-point"),
        (save(PIL.Image.fromarray(np.full((8, 8), 1 << 20, np.int32)), "TIFF"), "16 bits"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "bomb", "float", "32 bit"],
)
def test_what_cannot_be_decoded_is_named(data, reason):
    with pytest.raises(UndecodableImageError, match=reason):
        decode_image(data, 16)


def test_no_damage_crashes_the_decoder():
    rng = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = np.frombuffer(encode(smooth(40, 30), file_format), np.uint8)
        for _ in range(30):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
            try:
                image, _ = decode_image(damaged.tobytes(), 16)
            except UndecodableImageError:
                continue
            assert image.shape == (3, 16, 16)


def test_a_row_reads_no_file_outside_its_data_set(tmp_path):
    (tmp_path / "set").mkdir()
    for place in ("set/in.png", "out.png", "set-too.png"):
        (tmp_path / place).write_bytes(b"data")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "set" / "device.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    folder, hub = str(tmp_path / "set"), "hf://datasets/org/name@"
    refused = [
        *((f"{folder}/{name}", folder) for name in ("../out.png", "device.png", "pipe.png")),
        *((path, root) for path in (str(tmp_path / "out.png"), "/dev/zero") for root in (None, folder, hub)),
        (str(tmp_path / "set-too.png"), folder),
        (f"{folder}/in.png", None),
        (f"{folder}/a\0b.png", folder),
        *((path, root) for path in ("http://127.0.0.1:9/x.png", f"file://{folder}/in.png") for root in (None, hub)),
        ("http://127.0.0.1:9/x.png", folder),
        ("hf://datasets/org/secret@main/a.png", hub),
        (f"{hub}main/../../../secret/a.png", hub),
        (f"zip://a.png::file://{folder}/in.png::{hub}main/a.zip", hub),
    ]
    for path, root in refused:
        with pytest.raises(UndecodableImageError, match="outside the data set"):
            encoded_bytes({"bytes": None, "path": path}, root)
    for name in ("in.png", "link.png"):  # folders of links into a larger data set are usual
        assert encoded_bytes({"bytes": None, "path": f"{folder}/{name}"}, folder) == b"data"
    assert encoded_bytes({"bytes": b"own", "path": "/dev/zero"}, None) == b"own"
    with pytest.raises(UndecodableImageError, match="restore it"):
        encoded_bytes({"bytes": None, "path": f"{folder}/gone.png"}, folder)
