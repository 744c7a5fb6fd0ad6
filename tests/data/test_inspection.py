import hashlib
import io
import json
from collections import Counter

import datasets
import numpy as np
import PIL.Image
import pytest
from numbered_images import NUM_ROWS, draw, encode

from hf_ssl.data import open_source, wrap_dataset
from hf_ssl.data.contact_sheet import COLUMNS, ROWS, ContactSheet
from hf_ssl.data.inspection import format_inspection, inspect_dataset, write_inspection
from hf_ssl.data.rows import open_splits

NASTY_NAMES = ["$\\frac{x}$", "\x1b[31mred\x07", "a\n---\n# b", "猫と犬" * 9, "<b>|`*_" * 40, " ", "null"]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(pixels, file_format, mode="RGB", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def turned(data):
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    PIL.Image.open(io.BytesIO(data)).save(file, "JPEG", exif=exif)
    return file.getvalue()


PLAIN = save(noise(30, 40), "JPEG")
IMAGES = [
    PLAIN,
    save(noise(24, 20, 1), "JPEG", "L"),
    save(noise(33, 31, 2), "JPEG", "CMYK"),
    save(noise(21, 50, 3), "PNG", "RGBA"),
    turned(save(noise(30, 50, 4), "JPEG")),
    PLAIN[: len(PLAIN) // 2],
    b"no image",
    None,
    b"",
    PLAIN,
    draw(3),
    PLAIN,
    draw(4),
]
LABELS = [0, 0, 1, 1, 3, 0, 0, 1, 1, 0, -1, 1, None]
BROKEN = [5, 6, 7, 8]


def make_source(images, labels, names="abcd", stream=False, split="train"):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(names)))
    rows = {"image": [image and {"bytes": image, "path": None} for image in images], "label": labels}
    # An image of no bytes is one, to `datasets`.
    rows["image"] = [
        {"bytes": image, "path": None} if image == b"" else row
        for row, image in zip(rows["image"], images, strict=True)
    ]
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset = dataset.to_iterable_dataset() if stream else dataset
    return wrap_dataset(dataset, name="mixed", split=split, num_rows=len(images) if stream else None)


def opens(data):
    try:
        PIL.Image.open(io.BytesIO(data)).load()
    except Exception:
        return False
    return True


@pytest.mark.parametrize("stream", [False, True])
def test_the_counts_are_those_of_a_plain_loop(stream):
    [report] = inspect_dataset([make_source(IMAGES, LABELS, stream=stream)], num_threads=3).splits
    readable = [row for row, data in enumerate(IMAGES) if data is not None and opens(data)]
    assert [entry.row for entry in report.broken] == BROKEN
    assert sorted(readable + BROKEN) == list(range(len(IMAGES)))
    assert (report.rows, report.images) == (len(IMAGES), len(readable))
    assert report.bytes == sum(len(IMAGES[row]) for row in readable)
    images = [PIL.Image.open(io.BytesIO(IMAGES[row])) for row in readable]
    assert report.formats == Counter(image.format for image in images)
    assert report.modes == Counter(image.mode for image in images)
    upright = [datasets.Image().decode_example({"bytes": IMAGES[row], "path": None}).size for row in readable]
    for spread, sides in zip((report.width, report.height), zip(*upright, strict=True), strict=True):
        assert (spread.min, spread.median, spread.max) == (min(sides), np.median(sides), max(sides))
    assert report.turned == 1
    counts = Counter(LABELS[row] for row in readable)
    assert report.class_images == {name: counts[label] for label, name in enumerate("abcd")}
    assert report.unlabelled == counts[-1] + counts[None] == 2
    hashes = [hashlib.sha256(IMAGES[row]).digest() for row in readable]
    assert report.duplicates == len(hashes) - len(set(hashes)) == 2
    assert report.duplicate_rows == [(9, 0), (11, 0)]
    assert report.contradictions == 1


def test_reasons_say_what_is_wrong_and_nothing_else(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    for name in ("gone", "here"):
        (tmp_path / "train" / "a" / f"{name}.png").write_bytes(draw(1))
    folder = open_source(str(tmp_path), split="train", label_column=None)
    (tmp_path / "train" / "a" / "gone.png").unlink()
    reports = [inspect_dataset([source]).splits[0] for source in (make_source(IMAGES, LABELS), folder)]
    reasons = [entry.reason for report in reports for entry in report.broken]
    assert "truncated" in reasons[0]
    assert reasons[1:] == [
        "no image format that Pillow reads",
        "no image in the row",
        "no image format that Pillow reads",
        "No such file or directory",
    ]
    # Neither addresses in memory nor places of files, which would differ each time.
    assert not any("0x" in reason or str(tmp_path) in reason for reason in reasons)


@pytest.mark.parametrize("progressive", [False, True])
def test_cut_images_are_found_although_they_are_decoded_small(progressive):
    data = save(noise(60, 80), "JPEG", progressive=progressive)
    cuts = [data[:end] for end in np.linspace(2, len(data), 40).astype(int)]
    [report] = inspect_dataset([make_source(cuts, [0] * len(cuts))]).splits
    assert {entry.row for entry in report.broken} == {row for row, cut in enumerate(cuts) if not opens(cut)}
    assert 30 < len(report.broken) < 40


def test_images_in_two_splits_are_a_leak():
    train = make_source([draw(row) for row in range(10)], [0] * 10)
    test = make_source([draw(20), b"broken", draw(7), draw(2), draw(7)], [0] * 5, split="test")
    inspection = inspect_dataset([train, test])
    [leak] = inspection.leaks
    assert (leak.split, leak.of, leak.images, leak.rows) == ("test", "train", 3, [(2, 7), (3, 2), (4, 7)])
    assert [report.duplicates for report in inspection.splits] == [0, 1]
    assert any("3 images also in train" in warning for warning in inspection.warnings)
    assert inspect_dataset([test]).leaks == []


def test_the_first_images_alone(parquet_folder):
    sources = open_splits(str(parquet_folder), None, image_column="image", label_column="label")
    assert [report.rows for report in inspect_dataset(sources).splits] == [NUM_ROWS, 10]
    inspection = inspect_dataset(sources, num_images=20)
    assert [report.rows for report in inspection.splits] == [20, 10]
    # Of a part it is not said what it lacks.
    assert not any("without an image" in warning or "states" in warning for warning in inspection.warnings)
    with pytest.raises(ValueError, match="num_images=0"):
        inspect_dataset(sources, num_images=0)


def test_data_without_classes(parquet_folder, numbered_rows):
    [source] = open_splits(str(parquet_folder), ["train"], image_column="image", label_column=None)
    inspection = inspect_dataset([source])
    assert inspection.splits[0].class_images is None
    assert "classes" not in format_inspection(inspection)
    numbers = wrap_dataset(numbered_rows.cast_column("label", datasets.Value("int64")), name="n", split="train")
    assert inspect_dataset([numbers]).splits[0].class_images == {str(row): 1 for row in range(NUM_ROWS)}
    empty = make_source([b"broken"], [0])
    assert "warning: train: 1 row without an image that can be decoded" in format_inspection(inspect_dataset([empty]))


def test_the_text_names_extremes_and_warns():
    images = [encode(noise(8, 8, seed)) for seed in range(30)]
    labels = [0] * 12 + [1] * 12 + [2] * 6
    text = format_inspection(inspect_dataset([make_source([*images, b"x"], [*labels, 2])]))
    assert "classes with the fewest images, 0\n  d" in text
    assert "classes with the most images, 12\n  a\n  b" in text
    assert "broken\n  row 30: no image format" in text
    assert "warning: train: 1 class without an image." in text
    assert "warning: train: 1 row without an image that can be decoded" in text
    many = format_inspection(inspect_dataset([make_source([*images, *[b"x"] * 15], [*labels, *[0] * 15])]))
    assert "  row 39: no image format that Pillow reads\n  … and 5 more" in many


def test_labels_of_no_class_are_counted():
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = {"image": [{"bytes": draw(row), "path": None} for row in range(3)], "label": [0, 7, 1]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset.info.features["label"] = datasets.ClassLabel(names=["a", "b"])
    [report] = inspect_dataset([wrap_dataset(dataset, name="n", split="train")]).splits
    assert (report.unknown_labels, report.class_images) == (1, {"a": 1, "b": 1})


def test_the_json_file_holds_all_broken_rows(tmp_path):
    inspection = inspect_dataset([make_source([draw(0), *[b"x"] * 25], [0] * 26)])
    write_inspection(inspection, tmp_path / "new" / "found.json")
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert [entry["row"] for entry in found["splits"][0]["broken"]] == list(range(1, 26))
    assert found["splits"][0]["class_images"] == {"a": 1, "b": 0, "c": 0, "d": 0}
    assert found["warnings"] == inspection.warnings
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["found.json"]


def drawn(sheet):
    """Width and height of each picture, in pixels, and all texts."""
    [axes] = sheet.draw().axes
    extents = [image.get_extent() for image in axes.images]
    return [(right - left, bottom - top) for left, right, bottom, top in extents], [
        text.get_text() for text in axes.texts
    ]


def show(names, images_of_class, height=30, width=60):
    sheet = ContactSheet("a sheet", names)
    for label, count in enumerate(images_of_class):
        for seed in range(count):
            sheet.show({"bytes": encode(noise(height, width, seed)), "path": None}, label)
    return sheet


def test_each_row_of_a_sheet_is_a_class_and_its_pictures_are_whole():
    sheet = show(["first", "second", "third"], [20, 2, 9])
    pictures, texts = drawn(sheet)
    assert len(pictures) == COLUMNS + 2 + COLUMNS
    assert all(width == pytest.approx(2 * height, abs=1) and width > 60 for width, height in pictures)
    assert [text for text in texts if text in ("first", "second", "third")] == ["first", "second", "third"]
    tall, _ = drawn(show(["first"], [9], height=300, width=10))
    assert all(height / width == pytest.approx(30, rel=0.15) for width, height in tall)


def test_classes_with_few_images_have_their_names_below_them():
    pictures, texts = drawn(show([f"class {label}" for label in range(200)], [1] * 200))
    assert len(pictures) == ROWS * COLUMNS
    assert "96 of 200 classes, images drawn at random" in texts
    assert texts.count("class 0") == texts.count("class 199") == 1


def test_the_pictures_of_a_sheet_are_drawn_from_all():
    sheet = ContactSheet("a sheet", ["a"])
    for row in range(200):
        sheet.show({"bytes": encode(np.full((8, 8, 3), row)), "path": None}, 0)
    rows = [picture.getpixel((0, 0))[0] for picture in sheet.draws[0].pictures]
    assert len(set(rows)) == COLUMNS
    assert min(rows) < 100 < max(rows)


@pytest.mark.filterwarnings("error")
def test_a_sheet_shows_any_class_name_as_it_is(tmp_path):
    for counts in ([9] * len(NASTY_NAMES), [1] * len(NASTY_NAMES)):
        sheet = show(NASTY_NAMES, counts)
        _, texts = drawn(sheet)
        assert any("$\\frac{x}$" in text for text in texts)
        assert not any("\x1b" in text for text in texts)
        assert max(len(line) for text in texts for line in text.split("\n")) < 80
        sheet.save(tmp_path / "sheet.png")
        with PIL.Image.open(tmp_path / "sheet.png") as picture:
            assert picture.format == "PNG"


def test_no_text_of_the_data_steers_the_terminal():
    text = format_inspection(inspect_dataset([make_source([draw(0), draw(1)], [0, 1], names=NASTY_NAMES)]))
    assert "\x1b" not in text and "\x07" not in text
    assert "  \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}" in text


@pytest.mark.parametrize("label", [None, -1])
def test_a_sheet_of_unlabelled_images(label):
    sheet = ContactSheet("a sheet", ["a", "b"])
    for row in range(150):
        sheet.show({"bytes": draw(row % 50), "path": None}, label)
    assert len(drawn(sheet)[0]) == ROWS * COLUMNS


def test_the_same_images_give_the_same_sheet(tmp_path):
    for name in "ab":
        show(["x", "y"], [12, 12]).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="No image of a sheet"):
        ContactSheet("a sheet", None).save(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
