import math
from pathlib import Path

import datasets
import numpy as np
import pytest
from numbered_images import NUM_ROWS, draw

from hf_ssl.data import ImageLoader, open_source, wrap_dataset
from hf_ssl.data.sources import split_names

REAL_IMAGES = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-100"


@pytest.fixture
def image_folder(tmp_path):
    """Two classes in training, one of them in validation."""
    for name, rows in {"train/even": [0, 2, 4], "train/odd": [1, 3], "validation/odd": [5]}.items():
        (tmp_path / name).mkdir(parents=True)
        for row in rows:
            (tmp_path / name / f"{row}.png").write_bytes(draw(row))
    return tmp_path


def pixel_and_label(source):
    batches = ImageLoader(source, batch_size=4, image_size=2, shuffle=False, drop_last=False).epoch(0)
    return sorted(
        (int(image[0, 0, 0]), int(label))
        for batch in batches
        for image, label in zip(batch.images, batch.labels, strict=True)
    )


def test_a_parquet_folder_is_opened_with_random_access(parquet_folder):
    source = open_source(str(parquet_folder), split="train")
    assert not source.is_stream
    assert (source.name, source.split, source.revision) == (str(parquet_folder), "train", None)
    assert source.num_rows == NUM_ROWS
    assert source.class_names == [f"number {row}" for row in range(NUM_ROWS)]
    assert source.dataset[3]["image"]["bytes"] == draw(3)
    assert pixel_and_label(source) == [(5 * row, row) for row in range(NUM_ROWS)]
    assert open_source(str(parquet_folder), split="validation").num_rows == 10


def test_parquet_files_may_lie_in_the_folder_itself(numbered_rows, tmp_path):
    numbered_rows.select(range(6)).to_parquet(str(tmp_path / "train.parquet"))
    assert pixel_and_label(open_source(str(tmp_path), split="train")) == [(5 * row, row) for row in range(6)]


def test_an_image_folder_gets_its_labels_from_its_subfolders(image_folder):
    source = open_source(str(image_folder), split="train")
    assert not source.is_stream and source.num_rows == 5
    assert source.class_names == ["even", "odd"]
    assert pixel_and_label(source) == [(5 * row, row % 2) for row in range(5)]


def test_a_folder_of_links_into_another_is_read(image_folder, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    for file in image_folder.glob("*/*/*.png"):
        link = linked / file.relative_to(image_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    assert pixel_and_label(open_source(str(linked), split="train")) == pixel_and_label(
        open_source(str(image_folder), split="train")
    )


def test_a_class_missing_from_a_split_does_not_shift_the_labels(image_folder):
    source = open_source(str(image_folder), split="validation")
    assert source.class_names == ["even", "odd"]
    assert pixel_and_label(source) == [(25, 1)]


@pytest.fixture
def numbers_on_hub(hub, numbered_rows):
    """org/numbers with the numbered images as `datasets` pushes them, the training split in two shards."""
    splits = datasets.DatasetDict(train=numbered_rows, validation=numbered_rows.select(range(10)))
    splits.push_to_hub("org/numbers", num_shards={"train": 2, "validation": 1})
    return hub


def image_and_label(source):
    return [(row["image"]["bytes"], row["label"]) for row in source.dataset]


def test_a_hub_id_is_streamed(numbers_on_hub, parquet_folder):
    source = open_source("org/numbers", split="train")
    local = open_source(str(parquet_folder), split="train")
    assert source.is_stream and not local.is_stream
    assert (source.name, source.revision, source.num_rows) == ("org/numbers", None, NUM_ROWS)
    assert source.class_names == local.class_names
    assert image_and_label(source) == image_and_label(local)
    assert pixel_and_label(source) == [(5 * row, row) for row in range(NUM_ROWS)]
    assert numbers_on_hub.unknown == []
    with pytest.raises(ValueError, match=r"no split 'test'.*'train', 'validation'"):
        open_source("org/numbers", split="test")


def test_a_revision_pins_the_rows(numbers_on_hub, numbered_rows):
    repository = numbers_on_hub.repository("dataset", "org/numbers")
    before = repository.branches["main"]
    datasets.DatasetDict(train=numbered_rows.select(range(3, 8))).push_to_hub("org/numbers")
    after = repository.branches["main"]
    pinned, moved = open_source(f"org/numbers@{before}", split="train"), open_source("org/numbers", split="train")
    assert (pinned.revision, pinned.num_rows, moved.num_rows) == (before, NUM_ROWS, 5)
    assert [label for _, label in image_and_label(pinned)] == list(range(NUM_ROWS))
    assert image_and_label(moved) == image_and_label(open_source(f"org/numbers@{after}", split="train"))
    assert [label for _, label in image_and_label(moved)] == [3, 4, 5, 6, 7]
    with pytest.raises(FileNotFoundError, match=r"'org/numbers' \(revision 'nothing'\).*check the name and the rev"):
        open_source("org/numbers@nothing", split="train")


def test_rows_that_a_card_does_not_state_are_counted_in_the_parquet_files(hub, numbered_rows):
    noise = np.random.default_rng(0).bytes(4_000_000)
    rows = {"image": [{"bytes": noise[row * 100_000 :][:100_000], "path": None} for row in range(40)]}
    features = datasets.Features(image=datasets.Image())
    datasets.Dataset.from_dict(rows, features=features).push_to_hub("org/noise", num_shards=2)
    hub.repository("dataset", "org/noise").commit({"README.md": None})
    assert open_source("org/noise", split="train", label_column=None).num_rows == 40
    shards = [count for path, count in hub.sent.items() if path.endswith(".parquet")]
    assert len(shards) == 2 and 0 < sum(shards) < 0.2 * len(noise)

    files = {f"train/a/{row}.png": draw(row) for row in range(3)}
    hub.add_repository("dataset", "org/files").commit(files)
    with pytest.raises(ValueError, match=r"number of rows of the stream 'org/files'.*num_rows"):
        open_source("org/files", split="train", label_column=None)
    assert open_source("org/files", split="train", label_column=None, num_rows=3).num_rows == 3


def test_data_that_are_not_on_the_hub(hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'org/nothing'.*neither a local folder nor.*hf auth login"):
        open_source("org/nothing", split="train")
    hub.add_repository("dataset", "org/empty")
    with pytest.raises(FileNotFoundError, match="'org/empty'.*holds no data files"):
        open_source("org/empty", split="train")
    hub.add_repository("dataset", "bob/secret", private=True)
    with pytest.raises(FileNotFoundError, match="'bob/secret'.*that you may read"):
        open_source("bob/secret", split="train")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "notAnyMore" * 3)
    with pytest.raises(PermissionError, match="does not know the token with which 'org/empty'.*hf auth login"):
        open_source("org/empty", split="train")


BREAKS = {
    "down": lambda hub: hub.stop(),
    "500 for the card": lambda hub: hub.fail("HEAD", "README.md", status=500, times=math.inf),
    "503 for the listing": lambda hub: hub.fail("GET", "/tree/", status=503, times=math.inf),
    "500 for the shards": lambda hub: hub.fail("GET", "parquet$", status=500, times=math.inf),
    "lines cut": lambda hub: hub.cut("HEAD", "README.md", times=math.inf),
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_a_hub_that_fails(numbers_on_hub, break_it):
    # Without a card the shards are read on opening, for their columns and rows.
    numbers_on_hub.repository("dataset", "org/numbers").commit({"README.md": b"Numbers."})
    break_it(numbers_on_hub)
    with pytest.raises(
        ConnectionError, match=r"'org/numbers' is not a local folder.*cannot be reached.*or fails.*loc"
    ):
        open_source("org/numbers", split="train")


def test_a_hub_that_fails_and_recovers(numbers_on_hub, parquet_folder):
    numbers_on_hub.fail("HEAD", "README.md", status=500, times=2)
    numbers_on_hub.fail("GET", "parquet$", status=503)
    source = open_source("org/numbers", split="train")
    numbers_on_hub.cut("GET", "parquet$", times=3)
    assert image_and_label(source) == image_and_label(open_source(str(parquet_folder), split="train"))


def test_the_rows_of_a_stream_are_counted_by_its_info(numbered_rows):
    stream = numbered_rows.to_iterable_dataset()
    stream.info.splits = None
    with pytest.raises(ValueError, match=r"number of rows of the stream 'numbers'.*num_rows"):
        wrap_dataset(stream, name="numbers", split="train")
    stream.info.splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=NUM_ROWS)})
    assert wrap_dataset(stream, name="numbers", split="train").num_rows == NUM_ROWS


def test_other_columns_are_left_out(numbered_rows):
    rows = numbered_rows.rename_columns({"image": "img", "label": "fine"}).add_column("text", ["x"] * NUM_ROWS)
    source = wrap_dataset(rows, name="numbers", split="train", image_column="img", label_column="fine")
    assert source.dataset.column_names == ["img", "fine"]
    assert pixel_and_label(source) == [(5 * row, row) for row in range(NUM_ROWS)]


def test_errors_name_what_was_given_and_the_fix(parquet_folder, image_folder, tmp_path):
    folder = str(parquet_folder)
    with pytest.raises(FileNotFoundError, match=r"'/no/such/folder' does not exist.*Hub id.*embedded"):
        open_source("/no/such/folder", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither data/<split>-.*parquet nor"):
        open_source(str(tmp_path / "empty"), split="train")
    with pytest.raises(ValueError, match=r"no split 'test'.*'train', 'validation'"):
        open_source(folder, split="test")
    with pytest.raises(ValueError, match=r"no split 'val'.*'train', 'validation'"):
        open_source(str(image_folder), split="val")
    with pytest.raises(ValueError, match=r"no split 'test'.*'train', 'validation'"):
        open_source("embedded", split="test")
    with pytest.raises(ValueError, match=r"image_column='img' is not a column.*'image', 'label'"):
        open_source(folder, split="train", image_column="img")
    with pytest.raises(ValueError, match=r"label_column='class' is not a column.*'image', 'label'.*None"):
        open_source(folder, split="train", label_column="class")
    with pytest.raises(ValueError, match=r"'label'.*not images.*'image'"):
        open_source(folder, split="train", image_column="label")
    with pytest.raises(FileNotFoundError, match=r"@main' does not exist"):
        open_source(f"{folder}@main", split="train")
    with pytest.raises(ValueError, match=r"num_rows=9 was given.*has 37 rows"):
        open_source(folder, split="train", num_rows=9)


def test_labels_must_be_integer_classes(numbered_rows):
    numbers = numbered_rows.cast_column("label", datasets.Value("int64"))
    assert wrap_dataset(numbers, name="numbers", split="train").class_names is None
    texts = numbered_rows.cast_column("label", datasets.Value("string"))
    with pytest.raises(ValueError, match=r"label column 'label'.*string.*class_encode_column"):
        wrap_dataset(texts, name="numbers", split="train")


@pytest.mark.skipif(not REAL_IMAGES.is_dir(), reason="needs ../shared/data/tiny-imagenet-100")
def test_real_images():
    source = open_source(str(REAL_IMAGES), split="validation")
    assert source.num_rows == 5000 and len(source.class_names) == 100
    batch = next(ImageLoader(source, batch_size=256, image_size=64).epoch(0))
    assert (batch.sizes == 64).all()
    assert len(batch.labels.unique()) > 80
    assert 30 < batch.images.float().std() < 100


def test_the_head_of_a_source_has_its_first_rows(parquet_folder, numbered_rows):
    stream = wrap_dataset(numbered_rows.to_iterable_dataset(), name="n", split="train", num_rows=NUM_ROWS)
    for source in (open_source(str(parquet_folder), split="train"), stream):
        head = source.head(5)
        assert head.num_rows == 5
        assert [row["label"] for row in head.dataset] == [row["label"] for row in source.dataset][:5]
        for count in (0, source.num_rows + 1):
            with pytest.raises(ValueError, match=f"choose a number from 1 to {source.num_rows}"):
                source.head(count)


def test_an_empty_or_misnamed_split_does_not_block_a_good_one(image_folder, numbered_rows, tmp_path):
    (image_folder / "test").mkdir()
    (image_folder / "new-ones" / "odd").mkdir(parents=True)
    (image_folder / "new-ones" / "odd" / "7.png").write_bytes(draw(7))
    assert open_source(str(image_folder), split="train").num_rows == 5
    assert "test" not in split_names(str(image_folder))
    with pytest.raises(ValueError, match="holds no images: choose another split"):
        open_source(str(image_folder), split="test")
    with pytest.raises(ValueError, match="'new-ones'.*letters, digits and underscores"):
        open_source(str(image_folder), split="new-ones")

    folder = tmp_path / "parquet"
    folder.mkdir()
    numbered_rows.select(range(6)).to_parquet(folder / "train.parquet")
    numbered_rows.select([]).to_parquet(folder / "test.parquet")
    assert split_names(str(folder)) == ["train"]
    assert open_source(str(folder), split="train").num_rows == 6
    with pytest.raises(ValueError, match="'test'.* has no rows: choose another one"):
        open_source(str(folder), split="test")


def test_files_that_cannot_be_read_together_are_one_sentence(numbered_rows, tmp_path):
    (tmp_path / "train-00000-of-00002.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="'train'.*cannot be read together .*: replace the broken one") as caught:
        open_source(str(tmp_path), split="train")
    assert "\n" not in str(caught.value)
    numbered_rows.select(range(3)).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    numbered_rows.select(range(3)).remove_columns("label").add_column("other", ["a"] * 3).to_parquet(
        tmp_path / "train-00001-of-00002.parquet"
    )
    with pytest.raises(ValueError, match="cannot be read together .*: replace the broken one") as caught:
        open_source(str(tmp_path), split="train")
    assert "\n" not in str(caught.value)


def test_images_of_one_class_are_labelled(tmp_path):
    for row in range(3):
        (tmp_path / "train" / "only").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "only" / f"{row}.png").write_bytes(draw(row))
    source = open_source(str(tmp_path), split="train")
    assert source.class_names == ["only"]
    assert pixel_and_label(source) == [(0, 0), (5, 0), (10, 0)]
