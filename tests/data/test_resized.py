import io

import datasets
import numpy as np
import PIL.Image
import pytest
from numbered_images import NUM_ROWS, draw
from pyarrow import parquet

from hf_ssl.data import open_source, wrap_dataset
from hf_ssl.data import resized as resized_module
from hf_ssl.data.decoding import decode_upright
from hf_ssl.data.resized import write_resized_split

SIDE = 32


def smooth(height, width):
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return PIL.Image.fromarray(np.stack([255 * x, 255 * y, 200 * x * (1 - y)], axis=2).round().astype(np.uint8))


def save(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned(image, orientation):
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = orientation
    exif[PIL.Image.ExifTags.Base.Artist] = "somebody"
    return save(image, "JPEG", exif=exif)


LARGE = {
    "wide": save(smooth(48, 90), "JPEG"),
    "tall": save(smooth(101, 33), "PNG"),
    "square": save(smooth(64, 64), "WEBP"),
    "grey": save(smooth(50, 70).convert("L"), "JPEG"),
    "sixteen bit": save(PIL.Image.fromarray(np.asarray(smooth(50, 70))[..., 0].astype(np.uint16) * 256), "PNG"),
    "cmyk": save(smooth(70, 50).convert("CMYK"), "JPEG", quality=95),
    "palette": save(smooth(60, 90).quantize(64), "PNG", transparency=3),
    "turned": turned(smooth(40, 80), 6),
    "upside down": turned(smooth(40, 80), 3),
    "profile": save(smooth(40, 80), "JPEG", icc_profile=b"a profile"),
}
SMALL = {
    "small": save(smooth(20, 100), "JPEG"),
    "exactly": save(smooth(SIDE, 100), "PNG"),
    "small and turned": turned(smooth(20, 30), 8),
    "ribbon": save(PIL.Image.new("L", (70_000, 33)), "PNG"),
}
BROKEN = {"cut": LARGE["wide"][:-300], "text": b"no image", "none": None}


def make_source(images, labels=None, paths=None, stream=False):
    labels = range(len(images)) if labels is None else labels
    paths = paths or [None] * len(images)
    names = [f"class {number}" for number in range(len(images))]
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=names))
    rows = [None if image is None else {"bytes": image, "path": p} for image, p in zip(images, paths, strict=True)]
    dataset = datasets.Dataset.from_dict({"picture": rows, "kind": list(labels)}, features=features)
    return wrap_dataset(
        dataset.to_iterable_dataset() if stream else dataset,
        name="made",
        split="train",
        image_column="picture",
        label_column="kind",
        num_rows=len(images) if stream else None,
    )


def copy(source, folder, short_side=SIDE, **options):
    copied = write_resized_split(source, folder, short_side, **options)
    tables = [parquet.read_table(folder / shard) for shard in copied.shards]
    return copied, [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("name", LARGE)
def test_a_larger_image_gets_the_side_and_keeps_its_aspect_and_its_colours(name, tmp_path):
    decoded = decode_upright(LARGE[name])
    before, (height, width) = decoded.rgb, decoded.size
    _, [row] = copy(make_source([LARGE[name]]), tmp_path, jpeg_quality=95)
    picture = PIL.Image.open(io.BytesIO(row["image"]["bytes"]))
    assert picture.format == "JPEG"
    assert picture.mode == ("L" if name == "grey" else "RGB")
    assert min(picture.size) == SIDE
    assert picture.width == pytest.approx(width * SIDE / min(height, width), abs=0.5)
    assert picture.height == pytest.approx(height * SIDE / min(height, width), abs=0.5)
    expected = before.resize(picture.size, PIL.Image.Resampling.LANCZOS)
    difference = np.asarray(picture.convert("RGB"), int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 5
    assert not {"exif", "icc_profile"} & set(picture.info)


def test_an_image_that_is_small_enough_keeps_its_bytes(tmp_path):
    copied, rows = copy(make_source(list(SMALL.values())), tmp_path)
    assert [row["image"]["bytes"] for row in rows] == list(SMALL.values())
    assert (copied.rows, copied.resized, copied.bytes, copied.source_bytes) == (
        len(SMALL),
        0,
        *[sum(map(len, SMALL.values()))] * 2,
    )


@pytest.mark.parametrize("stream", [False, True])
def test_order_labels_and_counts(tmp_path, stream):
    images = [image for group in zip(LARGE.values(), [*SMALL.values()] * 3, strict=False) for image in group]
    images[3:3] = BROKEN.values()
    labels = [(7 * row) % len(images) for row in range(len(images))]
    labels[5], labels[6] = -1, None
    copied, rows = copy(make_source(images, labels, stream=stream), tmp_path, num_threads=3)
    kept = [row for row, image in enumerate(images) if image not in BROKEN.values()]
    assert [entry.row for entry in copied.dropped] == [3, 4, 5]
    assert [row["label"] for row in rows] == [labels[row] for row in kept]
    assert (copied.rows, copied.resized) == (len(kept), len(LARGE))
    assert copied.source_bytes == sum(len(images[row]) for row in kept)
    assert copied.bytes == sum(len(row["image"]["bytes"]) for row in rows)
    for row, place in zip(rows, kept, strict=True):
        if images[place] in SMALL.values():
            assert row["image"]["bytes"] == images[place]
        else:
            height, width = decode_upright(images[place]).size
            shape = decode_upright(row["image"]["bytes"]).size
            assert (shape[0] < shape[1]) == (height < width)


def test_shards_are_full_and_together_the_whole(tmp_path):
    images = [np.random.default_rng(row).bytes(100_000) for row in range(25)]
    images = [
        save(PIL.Image.fromarray(np.frombuffer(data, np.uint8)[:90_000].reshape(150, 200, 3)), "PNG")
        for data in images
    ]
    source = make_source(images)
    copied, rows = copy(source, tmp_path, short_side=200, shard_size_mb=1)
    assert [row["image"]["bytes"] for row in rows] == images
    sizes = [
        sum(map(len, parquet.read_table(tmp_path / shard)["image"].combine_chunks().field("bytes").to_pylist()))
        for shard in copied.shards
    ]
    assert len(sizes) == 3
    assert all(10**6 <= size < 10**6 + max(map(len, images)) for size in sizes[:-1])
    assert copied.shards == [f"data/train-{index:05d}-of-00003.parquet" for index in range(3)]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [shard[5:] for shard in copied.shards]
    opened = open_source(str(tmp_path), split="train")
    assert opened.class_names == source.class_names
    assert [row["image"]["bytes"] for row in opened.dataset] == images
    assert copied.arrow_bytes >= copied.bytes


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(resized_module, "ROW_GROUP_BYTES", 3 * len(LARGE["wide"]))
    copied, _ = copy(make_source([LARGE["wide"]] * 10), tmp_path, short_side=1000)
    metadata = parquet.read_metadata(tmp_path / copied.shards[0])
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [3, 3, 3, 1]


def test_the_same_source_gives_the_same_files(tmp_path):
    images = [*LARGE.values(), *SMALL.values(), *BROKEN.values()]
    for name, num_threads in (("one", 1), ("two", 4)):
        copy(make_source(images), tmp_path / name, num_threads=num_threads)
    [one], [two] = ([*(tmp_path / name / "data").iterdir()] for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_quality_costs_bytes(tmp_path):
    source = make_source([LARGE["wide"], LARGE["tall"]])
    sizes = [copy(source, tmp_path / str(quality), jpeg_quality=quality)[0].bytes for quality in (50, 75, 95)]
    assert sizes == sorted(set(sizes))


def test_no_file_names_a_place(tmp_path):
    paths = ["/home/somebody/a.png", "C:\\photos\\b.png", "c", None]
    images = [LARGE["tall"], SMALL["small"], SMALL["exactly"], LARGE["wide"]]
    _, rows = copy(make_source(images, paths=paths), tmp_path)
    assert [row["image"]["path"] for row in rows] == ["a.jpg", "b.png", "c", None]


def test_data_without_labels_and_with_numbers_for_labels(parquet_folder, numbered_rows, tmp_path):
    source = open_source(str(parquet_folder), split="train", label_column=None)
    copied, rows = copy(source, tmp_path / "a", short_side=7)
    assert rows[0].keys() == {"image"} and len(rows) == copied.rows == NUM_ROWS
    assert copied.resized == sum(min(6 + row % 3, 8 + row % 2) > 7 for row in range(NUM_ROWS))
    assert rows[0]["image"]["bytes"] == draw(0)
    numbers = numbered_rows.cast_column("label", datasets.Value("int64"))
    copied, _ = copy(wrap_dataset(numbers, name="n", split="train"), tmp_path / "b")
    assert datasets.Features.from_arrow_schema(parquet.read_schema(tmp_path / "b" / copied.shards[0])) == {
        "image": datasets.Image(),
        "label": datasets.Value("int64"),
    }


def test_errors_say_what_to_do(tmp_path, numbered_rows):
    source = make_source([LARGE["wide"]])
    for options in ({"short_side": 0}, {"jpeg_quality": 96}, {"shard_size_mb": 0}, {"num_images": 0}):
        [(name, value)] = options.items()
        with pytest.raises(ValueError, match=f"{name}={value} was given, but it must be"):
            copy(source, tmp_path, **options)
    with pytest.raises(ValueError, match="Not one of the 3 images of 'made'"):
        copy(make_source([*BROKEN.values()]), tmp_path)
    stream = numbered_rows.to_iterable_dataset()
    stream.info.splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=NUM_ROWS + 1)})
    short = wrap_dataset(stream, name="short", split="train")
    with pytest.raises(ValueError, match=f"gave {NUM_ROWS} rows, where it states {NUM_ROWS + 1}"):
        copy(short, tmp_path / "short")
    assert copy(short, tmp_path / "part", num_images=5)[0].rows == 5
