"""A resized copy as a folder and on the Hub."""

import io
import itertools
import json
import re
import shlex
import shutil

import datasets
import numpy as np
import PIL.Image
import pytest
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from hf_ssl import cli
from hf_ssl.data import open_source
from hf_ssl.data import resized as resized_module
from hf_ssl.hub.publish import dataset as dataset_module
from hf_ssl.hub.publish.client import HubError
from hf_ssl.hub.publish.dataset import copy_and_push, copy_dataset, is_copy, pin, push_copy

SIDE = 16
NASTY_NAMES = [
    "a: - b",
    "x\n---\n# hacked",
    "<script>alert(1)</script>",
    "猫 | `犬` | $x$",
    "null",
    "\x1b[31m",
    "{{ 1 }}",
]
COMMAND = "hf-ssl data SOURCE --short_side 16"


@pytest.fixture(autouse=True)
def datasets_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def picture(row):
    """Three of four are larger than SIDE."""
    height, width = (10, 30) if row % 4 == 0 else (20 + row % 5, 24 + row % 3)
    file = io.BytesIO()
    PIL.Image.fromarray(np.full((height, width, 3), 7 * row, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """20 training and 6 test images, one broken in each."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NASTY_NAMES))
    (folder / "data").mkdir(parents=True)
    for split, first, count in (("train", 0, 20), ("test", 20, 6)):
        images = [
            {"bytes": picture(first + row) if row != 3 else b"<b>broken</b>", "path": None} for row in range(count)
        ]
        rows = {"image": images, "label": [row % len(NASTY_NAMES) for row in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    return folder


@pytest.fixture
def copied(source, tmp_path):
    record = copy_dataset(str(source), tmp_path / "copy", SIDE, command=COMMAND.replace("SOURCE", str(source)))
    return tmp_path / "copy", record


def rows_of(rows):
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    return [(row["image"]["bytes"], row["label"]) for row in undecoded]


def test_the_copy_is_opened_by_datasets_and_by_hf_ssl(copied, source):
    folder, record = copied
    loaded = datasets.load_dataset(str(folder))
    streamed = datasets.load_dataset(str(folder), streaming=True)
    assert {name: rows.num_rows for name, rows in loaded.items()} == {"train": 19, "test": 5}
    for split in record["splits"]:
        name = split["split"]
        opened, original = (open_source(str(place), split=name) for place in (folder, source))
        assert opened.num_rows == split["rows"] == loaded[name].num_rows == original.num_rows - 1
        assert opened.class_names == original.class_names == NASTY_NAMES
        assert rows_of(opened.dataset) == rows_of(loaded[name]) == rows_of(streamed[name])
        labels = [label for row, (_, label) in enumerate(rows_of(original.dataset)) if row != 3]
        assert [label for _, label in rows_of(opened.dataset)] == labels
        assert all(min(row["image"].size) <= SIDE for row in loaded[name])
        assert streamed[name].info.features == loaded[name].features


def test_the_record_and_the_card_say_what_was_done(copied, source):
    folder, record = copied
    assert json.loads((folder / "resized.json").read_text()) == record
    assert record["dataset"] == "photos" and record["revision"] is None
    assert [split["dropped"] for split in record["splits"]] == [
        [{"row": 3, "reason": "no image format that Pillow reads"}]
    ] * 2
    card = (folder / "README.md").read_text()
    metadata = DatasetCard.load(folder / "README.md").data.to_dict()
    assert "license" not in metadata and "source_datasets" not in metadata
    sizes = {split["name"]: split["num_bytes"] for split in metadata["dataset_info"]["splits"]}
    for name, rows in datasets.load_dataset(str(folder)).items():
        assert sizes[name] == pytest.approx(rows.with_format("arrow")[:].nbytes, rel=0.01)
    counts = [(split["name"], split["num_examples"]) for split in metadata["dataset_info"]["splits"]]
    assert counts == [("train", 19), ("test", 5)]
    assert metadata["dataset_info"]["download_size"] == sum(path.stat().st_size for path in folder.glob("data/*"))
    assert "hf-ssl data photos --short_side 16" in card
    assert "quality 75" in card and "Lanczos" in card
    assert "| train | 3   | no image format that Pillow reads |" in card
    for path in folder.rglob("*"):
        assert path.is_dir() or str(source.parent).encode() not in path.read_bytes(), path


def test_class_names_are_data_on_the_card(copied):
    folder, _ = copied
    card = DatasetCard.load(folder / "README.md")
    names = card.data.to_dict()["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]
    assert [names[str(label)] for label in range(len(NASTY_NAMES))] == NASTY_NAMES
    html = MarkdownIt().enable("table").render(card.text)
    assert "hacked" not in html and "<script>" not in html


def test_a_hostile_name_of_a_folder_is_text_on_the_card(source, tmp_path):
    place = tmp_path / "<img src=x> [a](b) `c`"
    shutil.copytree(source, place)
    folder = tmp_path / "out | *x*"
    copy_dataset(str(place), folder, SIDE, command=shlex.join(["hf-ssl", "data", str(place)]))
    html = MarkdownIt().enable("table").render(DatasetCard.load(folder / "README.md").text)
    assert "<img" not in html and "<a href" not in html and "<em>" not in html
    name = re.search(r"load_dataset\((\".*?\"), split", DatasetCard.load(folder / "README.md").text)
    assert json.loads(name[1]) == folder.name


def test_the_same_command_gives_the_same_folder(source, tmp_path):
    for parent in "ab":
        copy_dataset(str(source), tmp_path / parent / "copy", SIDE, command=COMMAND, num_threads=3)
    first, second = (
        {
            path.relative_to(tmp_path / parent): path.read_bytes()
            for path in (tmp_path / parent).rglob("*")
            if path.is_file()
        }
        for parent in "ab"
    )
    assert first == second and len(first) == 4


def test_the_code_of_the_card_runs_on_the_folder_and_on_the_hub(hub, copied, monkeypatch, capsys):
    folder, _ = copied
    monkeypatch.chdir(folder.parent)
    for push in (False, True):
        if push:
            push_copy(folder, "org/photos-16")
        [code] = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        assert ('"org/photos-16"' in code) == push
        capsys.readouterr()
        exec(code, {})
        assert "'label': 0" in capsys.readouterr().out


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_copy_leaves_nothing(source, tmp_path, monkeypatch, fault):
    calls = itertools.count()
    shrink = resized_module._shrink

    def fail(*arguments):
        # In the second split, when the first is complete.
        if next(calls) == 22:
            raise fault
        return shrink(*arguments)

    monkeypatch.setattr(resized_module, "_shrink", fail)
    with pytest.raises(type(fault)):
        copy_dataset(str(source), tmp_path / "new" / "copy", SIDE, command=COMMAND, num_threads=1)
    assert list((tmp_path / "new").iterdir()) == []


def test_an_existing_folder_is_left_alone(source, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        copy_dataset(str(source), tmp_path / "mine", SIDE, command=COMMAND)
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_pushed_copy_streams_as_the_local_one(hub, copied, capsys):
    folder, _ = copied
    revision = push_copy(folder, "org/photos-16", private=True)
    repository = hub.repository("dataset", "org/photos-16")
    assert repository.private and repository.branches["main"] == revision
    assert len(repository.commits) == 2  # the Hub's own, and ours
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path: data for path, data in repository.files().items() if path != ".gitattributes"} == files
    assert b'load_dataset("org/photos-16", split="train", streaming=True)' in files["README.md"]
    for split in ("train", "test"):
        stream, local = open_source(f"org/photos-16@{revision}", split=split), open_source(str(folder), split=split)
        assert stream.is_stream and stream.num_rows == local.num_rows
        assert stream.class_names == local.class_names
        assert rows_of(stream.dataset) == rows_of(local.dataset)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["uploaded", "streamed", "published:"]
    assert hub.unknown == []


def test_a_copy_of_hub_data_names_its_commit(hub, copied, tmp_path):
    folder, _ = copied
    first = push_copy(folder, "org/photos")
    hub.repository("dataset", "org/photos").commit({"notes.txt": b"later"})
    head = hub.repository("dataset", "org/photos").branches["main"]
    assert (pin("org/photos"), pin(f"org/photos@{first}")) == (f"org/photos@{head}", f"org/photos@{first}")
    copy = copy_dataset("org/photos", tmp_path / "again", 8, command="hf-ssl data org/photos")
    assert (copy["dataset"], copy["revision"]) == ("org/photos", head)
    assert [split["rows"] for split in copy["splits"]] == [19, 5]
    card = DatasetCard.load(tmp_path / "again" / "README.md")
    assert card.data.source_datasets == ["org/photos"]
    assert f"[org/photos](https://huggingface.co/datasets/org/photos) (revision `{head}`)" in card.text
    with pytest.raises(FileNotFoundError, match="'org/nothing'.*neither a local folder nor"):
        copy_dataset("org/nothing", tmp_path / "other", 8, command="")


def test_images_that_lie_on_the_hub_as_files_are_copied(hub, tmp_path):
    files = {
        f"{split}/{name}/{row}.png": picture(row)
        for row in range(1, 4)
        for split in ("train", "test")
        for name in "ab"
    }
    hub.add_repository("dataset", "org/files").commit(files)
    copy = copy_dataset("org/files", tmp_path / "copy", 100, command="")
    assert [(split["split"], split["rows"], split["dropped"]) for split in copy["splits"]] == [
        ("train", 6, []),
        ("test", 6, []),
    ]
    found = rows_of(open_source(str(tmp_path / "copy"), split="train").dataset)
    assert sorted(found) == sorted((picture(row), label) for row in range(1, 4) for label in (0, 1))


def test_a_copy_is_replaced_and_anything_else_is_not(hub, copied, source, tmp_path):
    folder, _ = copied
    push_copy(folder, "org/photos-16")
    smaller = tmp_path / "smaller"
    copy_dataset(str(source), smaller, 8, command=COMMAND, splits=["train"])
    push_copy(smaller, "org/photos-16")
    assert {path for path in hub.repository("dataset", "org/photos-16").files() if path != ".gitattributes"} == {
        "README.md",
        "resized.json",
        "data/train-00000-of-00001.parquet",
    }

    hub.add_repository("dataset", "org/thesis").commit({"data/train-00000-of-00001.parquet": b"mine"})
    requests = len(hub.requests)
    with pytest.raises(FileExistsError, match="org/thesis exists and was not made by hf_ssl"):
        copy_and_push(str(source), tmp_path / "new", "org/thesis", short_side=8, command=COMMAND)
    assert not (tmp_path / "new").exists()  # it was known before the copy was made
    with pytest.raises(FileExistsError, match="org/thesis exists"):
        push_copy(folder, "org/thesis")
    assert not any(method == "POST" for method, _ in hub.requests[requests:])


@pytest.mark.parametrize(
    "paths, ours",
    [
        (
            {"README.md", "resized.json", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"},
            True,
        ),
        ({"README.md", "resized.json"}, False),
        ({"README.md", "data/train-00000-of-00001.parquet"}, False),
        ({"README.md", "resized.json", "data/train-00000-of-00001.parquet", "notes.txt"}, False),
        ({"README.md", "resized.json", "data/a/train-00000-of-00001.parquet"}, False),
        (set(), False),
    ],
)
def test_what_counts_as_a_copy(paths, ours):
    assert is_copy(paths) == ours


def test_a_folder_with_other_things_is_not_pushed(hub, copied, source):
    folder, _ = copied
    (folder / "notes.txt").write_text("mine")
    for place in (folder, source):
        with pytest.raises(ValueError, match="not pushed"):
            push_copy(place, "org/photos-16")
    assert hub.requests == []


def test_a_failed_push_keeps_the_copy(hub, source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    hub.fail("POST", "/commit/", status=400, times=1)
    with pytest.raises(HubError, match="refused"):
        copy_and_push(str(source), None, "org/photos-16", short_side=SIDE, command=COMMAND)
    said = capsys.readouterr().out
    again = shlex.split(re.search("`hf-ssl (.*)`", said)[1])
    assert again[2:] == ["--push_to_hub", "org/photos-16"]
    assert cli.main(again) == 0
    assert "published: " in capsys.readouterr().out
    assert len(hub.repository("dataset", "org/photos-16").commits) == 2

    kept = {path for path in (tmp_path / "scratch").iterdir()}
    copy_and_push(str(source), None, "org/photos-8", short_side=8, command=COMMAND)
    assert {path for path in (tmp_path / "scratch").iterdir()} == kept


def test_what_came_back_differently_is_not_called_published(hub, copied, monkeypatch, capsys):
    folder, _ = copied
    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "count_rows", lambda path: 7)
        with pytest.raises(HubError, match="'train' came back from org/photos-16 differently, with 7 rows of 19"):
            push_copy(folder, "org/photos-16")
    first_row = dataset_module.first_row
    monkeypatch.setattr(dataset_module, "first_row", lambda *place: first_row(*place) | {"label": 5})
    with pytest.raises(HubError, match="differently"):
        push_copy(folder, "org/photos-16")
    assert "published" not in capsys.readouterr().out


def test_the_command_inspects_copies_and_refuses(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", str(source), "--json", "found.json"]) == 0
    assert "warning: train: 1 row without an image" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["splits"][1]["rows"] == 6
    with PIL.Image.open(tmp_path / "photos-contact-sheet.png") as sheet:
        assert sheet.width > 100
    assert cli.main(["data", str(source), "--short-side", "16", "--output", "copy", "--split", "test"]) == 0
    assert "test: 5 images, 3 of them resized, 1 left out as broken" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "copy" / "data").iterdir()] == ["test-00000-of-00001.parquet"]
    for flags, message in (
        (["--short_side", "16"], "needs --output, --push_to_hub or both"),
        (["--output", "x"], "--output is about a copy, so it needs --short_side"),
        (["--short_side", "16", "--output", "x", "--json", "y"], "--json is about an inspection"),
        (["--private"], "needs --push_to_hub"),
    ):
        assert cli.main(["data", str(source), *flags]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["data", str(source), "--short_side", "16", "--output", "copy"]) == 1
    assert "choose another folder" in capsys.readouterr().err


def test_a_card_with_text_of_the_user_is_not_replaced(hub, copied):
    folder, _ = copied
    push_copy(folder, "org/photos-16")
    push_copy(folder, "org/photos-17")  # what a push wrote is ours, too
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nMy own words.\n")
    requests = len(hub.requests)
    with pytest.raises(ValueError, match="README.md of .* would be replaced: move your text elsewhere"):
        push_copy(folder, "org/photos-17")
    assert "My own words." in card.read_text() and len(hub.requests) == requests
    card.unlink()
    push_copy(folder, "org/photos-17")
    assert "org/photos-17" in card.read_text()


def test_a_record_that_says_too_little_is_one_sentence(hub, copied):
    folder, record = copied
    for key in ("dataset", "splits", "versions"):
        (folder / "resized.json").write_text(json.dumps({k: v for k, v in record.items() if k != key}))
        with pytest.raises(ValueError, match="The resized.json of .* so the folder is not pushed: make the copy anew"):
            push_copy(folder, "org/photos-16")
    other = [split | {"shards": ["../photos/data/train-00000-of-00001.parquet"]} for split in record["splits"]]
    for text in ("{", "[]", json.dumps(record | {"splits": other})):
        (folder / "resized.json").write_text(text)
        with pytest.raises(ValueError, match="The resized.json of .* is not pushed"):
            push_copy(folder, "org/photos-16")
    assert hub.requests == []


def test_the_card_says_what_is_true_of_the_copy(tmp_path, hub, copied):
    folder = tmp_path / "ribbons" / "data"
    folder.mkdir(parents=True)
    file = io.BytesIO()
    PIL.Image.new("L", (70_000, SIDE + 1)).save(file, "PNG")
    rows = {"image": [{"bytes": file.getvalue(), "path": None}] * 2, "label": [0, 2**31]}
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("uint64"))
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    record = copy_dataset(str(folder.parent), tmp_path / "long", SIDE, command="hf-ssl data ribbons")
    assert (record["splits"][0]["too_long"], record["splits"][0]["resized"]) == (2, 0)
    card = (tmp_path / "long" / "README.md").read_text()
    assert "no image but for 2 very long ones has a shorter side" in card and "2 images are copied likewise" in card
    assert "the same size" in card and "times" not in card and "dtype: uint64" in card

    head = push_copy(copied[0], "org/photos")
    command = "hf-ssl data org/photos --short_side 8 --push_to_hub org/photos"
    copy = copy_dataset("org/photos", tmp_path / "again", 8, command=command)
    assert copy["command"] == f"hf-ssl data org/photos@{head} --short_side 8 --push_to_hub org/photos"


def test_outputs_are_checked_before_an_image_is_read(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for read in ("hf_ssl.data.inspection._look_at", "hf_ssl.data.resized._shrink"):
        monkeypatch.setattr(read, lambda *a, **k: pytest.fail("an image was read"))
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    for flags, status, message in (
        (["--json", "mine.json"], 1, "'mine.json' exists"),
        (["--json", "no/x.json"], 1, "The folder 'no' does not exist"),
        (["--json", "mine.json/x.json"], 1, "is a file, not a folder"),
        (["--json", "x.txt"], 2, "another ending than .json"),
        (["--contact_sheet", "x.jpg"], 2, "another ending than .png"),
        (["--contact_sheet", "folder.png"], 1, "'folder.png' exists"),
        (["--short_side", "8", "--output", str(source / "copy")], 1, "lies in the data set"),
        (["--short_side", "8", "--output", "mine.json/copy"], 1, "is a file, not a folder"),
        (["--split", "train", "test", "train"], 2, "names 'train' more than once"),
    ):
        assert cli.main(["data", str(source), *flags]) == status
        assert message in capsys.readouterr().err
    (tmp_path / "photos-contact-sheet.png").mkdir()
    assert cli.main(["data", str(source)]) == 1
    assert "is a folder; give the name of a file" in capsys.readouterr().err
    assert (tmp_path / "mine.json").read_text() == "mine"


@pytest.mark.parametrize("flag", ["--split", "--num_images", "--image_column", "--label_column", "--num_threads"])
def test_a_copy_is_pushed_as_it_is(hub, copied, flag, capsys):
    folder, _ = copied
    assert cli.main(["data", str(folder), "--push_to_hub", "org/photos-16", flag, "1"]) == 2
    assert f"{flag} says how to read a source" in capsys.readouterr().err and hub.requests == []


def test_a_relative_place_is_not_in_the_record(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent.parent)
    place = str(source.relative_to(source.parent.parent))
    record = copy_dataset(place, tmp_path / "copy", SIDE, command=f"hf-ssl data {place} --short_side {SIDE}")
    assert record["command"] == f"hf-ssl data photos --short_side {SIDE}" and record["dataset"] == "photos"
