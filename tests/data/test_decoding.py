import io
import os
import struct
import zlib

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from numbered_images import encode

from hf_ssl.data import UndecodableImageError, decode_image
from hf_ssl.data.decoding import decode_reduced, decode_upright, encoded_bytes
from hf_ssl.data.jpeg import decode_usual, reduction, usual_size


def smooth(height, width):
    """A picture that no flip or turn leaves as it is, smooth enough for JPEG and for resizing."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * x, 255 * y, 200 * x * (1 - y)], axis=2).round().astype(np.uint8)


def noisy(height, width):
    """A picture with detail in every block of a JPEG, up to its last pixel."""
    noise = np.random.default_rng(0).integers(-40, 40, (height, width, 3))
    return np.clip(smooth(height, width) + noise, 0, 255).astype(np.uint8)


def save(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_an_image_of_the_right_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image, size = decode_image(encode(pixels), 32)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and size == (32, 32)
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("height, width", [(48, 96), (300, 500), (32, 20)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_the_whole_picture_is_squeezed_to_a_square(height, width, file_format):
    image, size = decode_image(encode(smooth(height, width), file_format), 32)
    assert image.shape == (32, 32, 3) and size == (height, width)
    expected = PIL.Image.fromarray(smooth(height, width)).resize((32, 32), PIL.Image.Resampling.BILINEAR)
    difference = image.astype(int) - np.asarray(expected)
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
    np.testing.assert_array_equal(decode_image(encode(grey), 16)[0], np.stack([grey] * 3, 2))
    low_bits = np.random.default_rng(0).integers(0, 256, grey.shape, np.uint16)
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 256 + low_bits)
    for file_format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(save(deep, file_format), 16)[0], np.stack([grey] * 3, 2))


@pytest.mark.filterwarnings("error")
def test_palette_alpha_and_bilevel_images_become_rgb():
    rgb = PIL.Image.fromarray(smooth(16, 16))
    expected = smooth(16, 16)
    rgba = rgb.copy()
    rgba.putalpha(PIL.Image.new("L", rgb.size, 100))
    np.testing.assert_array_equal(decode_image(save(rgba, "PNG"), 16)[0], expected)

    palette = rgb.quantize(64)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(save(palette, "PNG"), 16)[0], expected)
    data = save(palette, "PNG", transparency=bytes(range(64)))
    np.testing.assert_array_equal(decode_image(data, 16)[0], expected)

    bilevel = PIL.Image.fromarray(smooth(16, 16)[..., 0] > 100)
    expected = np.stack([np.asarray(bilevel.convert("L"))] * 3, 2)
    np.testing.assert_array_equal(decode_image(save(bilevel, "PNG"), 16)[0], expected)


def test_cmyk_jpegs_keep_their_colours():
    cmyk = PIL.Image.fromarray(smooth(64, 64)).convert("CMYK")
    image, size = decode_image(save(cmyk, "JPEG", quality=95), 64)
    assert size == (64, 64)
    difference = image.astype(int) - smooth(64, 64)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(file_format):
    red, blue = (PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = save(red, file_format, save_all=True, append_images=[blue])
    image, _ = decode_image(data, 8)
    assert image[..., 0].min() > 240 and image[..., 2].max() < 15


USUAL_JPEGS = {
    "4:4:4": encode(noisy(77, 99), "JPEG", subsampling=0),
    "4:2:2": encode(noisy(77, 99), "JPEG", subsampling=1),
    "4:2:0": encode(noisy(77, 99), "JPEG", subsampling=2),
    "progressive": encode(noisy(77, 99), "JPEG", progressive=True),
    "restarts": encode(noisy(77, 99), "JPEG", restart_marker_rows=1),
    "grey": encode(noisy(77, 99)[..., 0], "JPEG"),
    "one pixel": encode(noisy(1, 1), "JPEG"),
    "no turn in EXIF": encode(noisy(77, 99), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "colour profile": encode(noisy(77, 99), "JPEG", icc_profile=bytes(70_000)),
    "comment": encode(noisy(77, 99), "JPEG", comment=b"\xff\xda"),
    "bytes after the end": encode(noisy(77, 99), "JPEG") + b"more",
}


@pytest.mark.parametrize("name", USUAL_JPEGS)
def test_the_fast_path_takes_usual_jpegs_and_gives_pillows_pixels(name):
    data = USUAL_JPEGS[name]
    pixels = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    assert usual_size(data) == pixels.shape[:2]
    fast = decode_usual(data, 1)
    assert fast.dtype == np.uint8 and fast.flags.c_contiguous and fast.flags.writeable
    np.testing.assert_array_equal(fast, pixels)
    np.testing.assert_array_equal(decode_reduced(data, None)[0], pixels)
    for min_size in (5, 12, 30):
        by_pillow = np.asarray(decode_upright(data, min_size).rgb)
        np.testing.assert_array_equal(decode_usual(data, reduction(pixels.shape[:2], min_size)), by_pillow)
        np.testing.assert_array_equal(decode_reduced(data, min_size)[0], by_pillow)


def turned(**segment):
    return encode(noisy(24, 40), "JPEG", **segment)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
EXIF = PIL.Image.Exif()
EXIF[PIL.Image.ExifTags.Base.Orientation] = 6


@pytest.mark.parametrize(
    "data",
    [
        turned(exif=EXIF),
        turned(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        turned(xmp=XMP),
    ],
    ids=["little-endian EXIF", "big-endian EXIF", "XMP"],
)
def test_a_turned_jpeg_is_left_to_pillow(data):
    assert usual_size(data) is None
    pixels, size = decode_reduced(data, None)
    assert size == (40, 24) and pixels.shape == (40, 24, 3) and pixels.flags.writeable and pixels.flags.c_contiguous
    as_stored = np.asarray(PIL.Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels, np.rot90(as_stored, -1))


@pytest.mark.parametrize("shape", [(400, 640), (130, 70), (64, 64)])
@pytest.mark.parametrize("min_size", [None, 1, 33, 64, 1000])
def test_a_large_jpeg_is_reduced_never_below_the_size(shape, min_size):
    pixels, size = decode_reduced(encode(smooth(*shape), "JPEG"), min_size)
    assert size == shape
    factor = 1
    while min_size is not None and factor < 8 and min(shape) >= 2 * factor * min_size:
        factor *= 2
    assert pixels.shape == (-(-shape[0] // factor), -(-shape[1] // factor), 3)
    whole = np.pad(smooth(*shape), [(0, -side % factor) for side in shape] + [(0, 0)], "edge")
    blocks = whole.reshape(pixels.shape[0], factor, pixels.shape[1], factor, 3)
    assert np.abs(pixels - blocks.mean((1, 3))).mean() < 3


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (3, 2), (300, 500)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_squeezing_is_exact_to_a_level_for_any_shape(shape, file_format):
    data = encode(noisy(*shape), file_format)
    image, size = decode_image(data, 32)
    assert size == shape and image.shape == (32, 32, 3) and image.flags.c_contiguous
    whole = torch.from_numpy(decode_reduced(data, 32)[0]).permute(2, 0, 1)[None].double()
    exact = F.interpolate(whole, size=(32, 32), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    # Rows and columns are rounded one after the other.
    assert np.abs(image - exact).max() <= 1 + 1e-9


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg_of_size(width, height):
    """A small JPEG whose header states another size."""
    data = bytearray(encode(smooth(16, 16), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


WHOLE = encode(noisy(64, 64), "JPEG")
END = b"\xff\xd9"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "0 bytes"),
        (b"no image", "8 bytes"),
        (WHOLE[:-200], "(?i)truncated"),
        (WHOLE[:-2], "(?i)truncated"),
        (WHOLE[: len(WHOLE) // 2] + END, "end before the picture"),
        (USUAL_JPEGS["grey"][:2000] + END, "end before the picture"),
        (USUAL_JPEGS["restarts"][:2000] + END, "end before the picture"),
        (turned(exif=EXIF)[:-300] + END, "end before the picture"),
        (WHOLE.replace(b"\xff\xc4", b"\xff\xc5"), "bytes cannot be decoded"),
        (encode(smooth(64, 64))[:200], "200 bytes"),
        (png_header(100_000, 100_000), "DecompressionBomb"),
        (png_header(10_000, 9_000), "DecompressionBomb"),
        (jpeg_of_size(60_000, 60_000), "DecompressionBomb"),
        (jpeg_of_size(10_000, 9_000), "DecompressionBomb"),
        (save(PIL.Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "floating-point"),
        (save(PIL.Image.fromarray(np.full((8, 8), 1 << 20, np.int32)), "TIFF"), "16 bits"),
    ],
    ids=[
        *("empty", "text", "truncated jpeg", "no end", "closed half", "closed grey half", "closed restarts"),
        *("closed turned half", "no codes", "truncated png", "png bomb", "small png bomb", "jpeg bomb"),
        *("small jpeg bomb", "float", "32 bit"),
    ],
)
def test_what_cannot_be_decoded_is_named(data, reason):
    for min_size in (None, 16):
        with pytest.raises(UndecodableImageError, match=reason):
            decode_reduced(data, min_size)
    with pytest.raises(UndecodableImageError, match=reason):
        decode_image(data, 16)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": EXIF}])
def test_a_whole_picture_may_end_in_grey(options):
    pixels = noisy(64, 64)
    pixels[32:] = 128
    for array in (pixels, pixels[..., 0]):
        data = encode(array, "JPEG", **options)
        assert decode_upright(data).rgb.getpixel((0 if options.get("exif") else 63, 63)) == (128,) * 3
        decode_reduced(data, None)
        decode_reduced(data, 16)


def damaged(data, rng, count=5):
    array = np.frombuffer(data, np.uint8).copy()
    array[rng.integers(0, len(array), count)] = rng.integers(0, 256, count)
    return array.tobytes()


def test_no_damage_crashes_the_decoder():
    rng = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = encode(smooth(40, 30), file_format)
        for _ in range(30):
            try:
                image, _ = decode_image(damaged(data, rng), 16)
            except UndecodableImageError:
                continue
            assert image.shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["4:2:0", "progressive", "restarts", "grey"])
def test_what_the_fast_path_decodes_pillow_decodes_to_the_same(name):
    rng = np.random.default_rng(0)
    decoded = 0
    for attempt in range(100):
        # Half of them in the header.
        head, rest = USUAL_JPEGS[name][:700], USUAL_JPEGS[name][700:]
        data = damaged(head, rng, 3) + rest if attempt % 2 else head + damaged(rest, rng, 3)
        fast = None if usual_size(data) is None else decode_usual(data, 1)
        if fast is not None:
            decoded += 1
            np.testing.assert_array_equal(fast, np.asarray(decode_upright(data).rgb))
    assert decoded > 20


def test_no_bytes_break_the_reader_of_headers():
    rng = np.random.default_rng(0)
    for name, data in USUAL_JPEGS.items():
        header = data[: data.rindex(b"\xff\xda\0") if name != "progressive" else data.index(b"\xff\xda")]
        for length in range(0, len(header), 1 + len(header) // 700):
            assert usual_size(header[:length]) is None
        for _ in range(100):
            usual_size(damaged(data, rng, 20))
            usual_size(b"\xff\xd8" + rng.bytes(40))


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
