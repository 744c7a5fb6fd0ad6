import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from numbered_images import NUM_ROWS, draw, encode

from hf_ssl.data import UndecodableImageError, decode_image, open_source, wrap_dataset
from hf_ssl.data.cache import DecodedImages, choice, choose_cache, decode_all, decoded, disk, open_disk_cache
from hf_ssl.data.cache import required_bytes as required
from hf_ssl.data.decoding import encoded_bytes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(parquet_folder):
    return open_source(str(parquet_folder), split="train")


@pytest.fixture
def pinned_stream(source):
    stream = wrap_dataset(source.dataset.to_iterable_dataset(3), name="org/numbered", split="train", num_rows=NUM_ROWS)
    return replace(stream, revision=COMMIT)


@pytest.fixture
def decodings(monkeypatch):
    """Counts the images that are decoded."""
    counted, lock = [], threading.Lock()

    def counting(data, size):
        with lock:
            counted.append(size)
        return decode_image(data, size)

    monkeypatch.setattr(decoded, "decode_image", counting)
    monkeypatch.setattr(decoded, "_PIECE_IMAGES", 4)
    return counted


def assert_equal(left: DecodedImages, right: DecodedImages):
    for name in ("images", "sizes", "labels", "decodable"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def make_rows(images):
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = {"image": [{"bytes": data, "path": None} for data in images], "label": list(range(len(images)))}
    return wrap_dataset(datasets.Dataset.from_dict(rows, features=features), name="rows", split="train")


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("rows", ["random access", "stream"])
def test_every_row_is_what_decode_image_gives(rows, kind, num_threads, source, pinned_stream, decodings):
    opened = {"random access": source, "stream": pinned_stream}[rows]
    cached = {"memory": decode_all, "disk": open_disk_cache}[kind](opened, 7, num_threads)
    assert cached.images.shape == (NUM_ROWS, 7, 7, 3) and cached.images.dtype == np.uint8
    assert cached.sizes.shape == (NUM_ROWS, 2) and cached.sizes.dtype == cached.labels.dtype == np.int64
    assert cached.decodable.all() and cached.num_undecodable == 0
    assert cached.labels.tolist() == list(range(NUM_ROWS))
    for row in range(NUM_ROWS):
        image, size = decode_image(draw(row), 7)
        np.testing.assert_array_equal(cached.images[row], image)
        assert tuple(cached.sizes[row]) == size
    assert len(decodings) == NUM_ROWS


def test_rows_without_labels(numbered_rows):
    unlabelled = wrap_dataset(numbered_rows, name="numbered", split="train", label_column=None)
    assert (decode_all(unlabelled, 4).labels == -1).all()


def test_what_was_decoded_is_not_decoded_again(source, pinned_stream, decodings):
    for opened in (source, pinned_stream):
        first = open_disk_cache(opened, 8)
        count = len(decodings)
        assert_equal(open_disk_cache(opened, 8), first)
        assert len(decodings) == count
        assert not first.images.flags.writeable
    assert count == 2 * NUM_ROWS


def test_another_size_or_other_columns_have_a_cache_of_their_own(source, parquet_folder, decodings):
    unlabelled = open_source(str(parquet_folder), split="train", label_column=None)
    for _ in range(2):
        assert open_disk_cache(source, 8).images.shape[1] == 8
        assert open_disk_cache(source, 6).images.shape[1] == 6
        assert len(open_disk_cache(source.head(5), 8).labels) == 5
        assert (open_disk_cache(unlabelled, 8).labels == -1).all()
    assert len(decodings) == 3 * NUM_ROWS + 5


def write_parquet(folder, shade):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    images = [encode(np.full((4, 4, 3), shade + row)) for row in range(5)]
    make_rows(images).dataset.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))


def test_a_parquet_file_that_is_replaced_is_decoded_anew(tmp_path, decodings, caplog):
    write_parquet(tmp_path / "set", 10)
    assert open_disk_cache(open_source(str(tmp_path / "set"), split="train"), 4).images[0, 0, 0, 0] == 10
    write_parquet(tmp_path / "set", 20)
    changed = open_source(str(tmp_path / "set"), split="train")
    assert not disk.is_cached(changed, 4)
    assert open_disk_cache(changed, 4).images[0, 0, 0, 0] == 20
    assert len(decodings) == 10 and "changed" in caplog.text
    assert len(list(disk.caches_folder().glob("[!.]*px-*/"))) == 1


@pytest.mark.parametrize("with_new_time", [True, False])
def test_an_image_file_that_is_replaced_is_decoded_anew(tmp_path, with_new_time):
    folder = tmp_path / "set" / "train" / "a"
    folder.mkdir(parents=True)
    for row in range(3):
        (folder / f"{row}.png").write_bytes(draw(row))
    name = str(tmp_path / "set")
    assert open_disk_cache(open_source(name, split="train"), 4).images[1].max() == 5
    file = folder / "1.png"
    time = file.stat().st_mtime_ns
    # Another length, as a length that is equal too would need the bytes to be read.
    file.write_bytes(draw(9) + b"\0")
    os.utime(file, ns=(time, time + 10**9 if with_new_time else time))
    assert open_disk_cache(open_source(name, split="train"), 4).images[1].max() == 45
    file.unlink()
    cached = open_disk_cache(open_source(name, split="train"), 4)
    assert cached.num_undecodable == 0 and len(cached.labels) == 2


def test_a_stream_must_be_pinned(pinned_stream):
    for revision in (None, "main", COMMIT[:7]):
        loose = replace(pinned_stream, revision=revision)
        with pytest.raises(ValueError, match="not pinned to a commit"):
            open_disk_cache(loose, 8)
        with pytest.raises(ValueError, match="not pinned to a commit"):
            choose_cache("disk", loose, 8, 10, torch.device("cpu"))
    open_disk_cache(pinned_stream, 8)
    assert not disk.is_cached(replace(pinned_stream, revision=COMMIT[::-1]), 8)


def test_a_stream_shorter_than_stated_is_an_error(pinned_stream):
    long = replace(pinned_stream, num_rows=NUM_ROWS + 3)
    for kind in (decode_all, open_disk_cache):
        with pytest.raises(RuntimeError, match=f"ended after {NUM_ROWS} rows"):
            kind(long, 8)
    assert not disk.is_cached(long, 8)
    short = replace(pinned_stream, num_rows=NUM_ROWS - 3)
    assert decode_all(short, 8).labels.tolist() == list(range(NUM_ROWS - 3))


def names_in_folder():
    return sorted(path.name for path in disk.caches_folder().iterdir() if not path.name.endswith(".lock"))


def live_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hf_ssl")]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, ValueError])
def test_an_interruption_leaves_nothing(source, monkeypatch, stop):
    writes = []

    def interrupted(*arguments):
        for number, piece in enumerate(decoded.decode_pieces(*arguments)):
            if number == 2:
                writes.append((next(disk.caches_folder().glob(".*.building")) / "images.npy").stat().st_size)
                raise stop
            yield piece

    with monkeypatch.context() as patched:
        patched.setattr(decoded, "_PIECE_IMAGES", 4)
        patched.setattr(disk, "decode_pieces", interrupted)
        with pytest.raises(stop):
            open_disk_cache(source, 8)
    # All the space is taken from the beginning.
    assert writes[0] > NUM_ROWS * 8 * 8 * 3
    assert names_in_folder() == [] and live_threads() == []
    assert not disk.is_cached(source, 8)
    assert_equal(open_disk_cache(source, 8), decode_all(source, 8))


def test_threads_end_when_memory_is_interrupted(source, monkeypatch):
    def interrupted(data, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoded, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_all(source, 8)
    assert live_threads() == []


def test_leftovers_of_killed_processes_are_removed(source, tmp_path):
    open_disk_cache(source, 6)
    made = next(path for path in disk.caches_folder().iterdir() if path.is_dir())
    for name in (made.name, made.name.replace("6px", "9px")):
        shutil.copytree(made, made.with_name(f".{name}.building"))
    half = made.with_name(f".{made.name}.building") / "images.npy"
    half.write_bytes(half.read_bytes()[:1000])
    shutil.rmtree(made)
    assert_equal(open_disk_cache(source, 6), decode_all(source, 6))
    assert names_in_folder() == [made.name]


def test_what_another_process_builds_is_not_a_leftover(source):
    folder = disk.caches_folder()
    building = folder / ".other.building"
    building.mkdir(parents=True)
    with disk._locked(folder / "other"):
        open_disk_cache(source, 8)
        assert building.exists()
    open_disk_cache(source, 9)
    assert not building.exists()


def cut(folder):
    with open(folder / "images.npy", "r+b") as file:
        file.truncate(500)


def forget(folder):
    (folder / "labels.npy").unlink()


def break_manifest(folder):
    (folder / "manifest.json").write_text('{"key": ')


def empty_manifest(folder):
    (folder / "manifest.json").write_text("[]")


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


def older_version(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["key"]["version"] = 0
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [cut, forget, break_manifest, empty_manifest, lose_manifest, older_version])
def test_a_damaged_cache_is_made_anew(damage, source, caplog, decodings):
    open_disk_cache(source, 8)
    damage(next(path for path in disk.caches_folder().iterdir() if path.is_dir()))
    assert not disk.is_cached(source, 8)
    assert_equal(open_disk_cache(source, 8), decode_all(source, 8))
    assert "made anew" in caplog.text and len(decodings) == 3 * NUM_ROWS


def test_threads_at_once_decode_once(source, decodings):
    start = threading.Barrier(4)

    def opened(_):
        start.wait()
        return open_disk_cache(source, 8)

    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(opened, range(4)))
    assert len(decodings) == NUM_ROWS
    for cached in caches:
        assert_equal(cached, decode_all(source, 8))


def test_a_process_waits_for_another_that_decodes(source, decodings, caplog):
    caplog.set_level(logging.INFO)
    open_disk_cache(source, 8)
    place = next(path for path in disk.caches_folder().iterdir() if path.is_dir())
    shutil.rmtree(place)
    decodings.clear()
    program = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True), sys.stdin.read()"
    command = [sys.executable, "-c", program, f"{place}.lock"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        assert other.stdout.readline() == b"held\n"
        opened = pool.submit(open_disk_cache, source, 8)
        while "Waiting for another process" not in caplog.text:
            assert not opened.done()
        assert decodings == []
        other.stdin.close()
        assert_equal(opened.result(60), decode_all(source, 8))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_leaves_nothing(source, monkeypatch, number):
    class Full(io.FileIO):
        def write(self, data):
            # The header of the first file was written.
            if self.tell() > 0:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    def reserve(file, size):
        raise OSError(number, os.strerror(number))

    faults = {
        "usage": (disk.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 5000)),
        "reserving": (disk, "_reserve", reserve),
        "writing": (disk, "open", lambda path, mode: Full(path, mode)),
    }
    for target, name, fault in faults.values():
        with monkeypatch.context() as patched:
            patched.setattr(target, name, fault, raising=name != "open")
            with pytest.raises(
                OSError, match=r"need 8\.0 kB, but the disk has .* free.*HF_DATASETS_CACHE.*cache none"
            ):
                open_disk_cache(source, 8)
        assert names_in_folder() == []
    assert_equal(open_disk_cache(source, 8), decode_all(source, 8))


def test_space_is_reserved_before_anything_is_decoded(source, decodings, monkeypatch):
    def full(handle, offset, size):
        assert offset == 0 and size > NUM_ROWS * 8 * 8 * 3
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="do without it"):
        open_disk_cache(source, 8)
    assert decodings == []


@pytest.mark.parametrize("kind", [decode_all, open_disk_cache])
def test_broken_rows_are_flagged_and_named_once(kind, caplog):
    jpeg = encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), "JPEG")
    rows = make_rows([draw(0), b"no image", draw(2), jpeg[:-100], b""])
    cached = kind(rows, 8)
    assert cached.decodable.tolist() == [True, False, True, False, False] and cached.num_undecodable == 3
    assert cached.labels.tolist() == [0, 1, 2, 3, 4] and cached.sizes[1].tolist() == [1, 1]
    assert (cached.images[2] == 10).all() and (cached.images[~cached.decodable] == 0).all()
    for row in (1, 3, 4):
        assert caplog.text.count(f"Row {row} of rows (train)") == 1
    caplog.clear()
    if kind is open_disk_cache:
        assert kind(rows, 8).num_undecodable == 3
        assert "3 of 5 images" in caplog.text and "rows 1, 3, 4" in caplog.text


@pytest.mark.parametrize("kind", [decode_all, open_disk_cache])
def test_without_one_image_there_is_nothing(kind):
    rows = make_rows([b"no image", b""])
    with pytest.raises(UndecodableImageError, match="Not one of the 2 images"):
        kind(rows, 8)
    assert not disk.is_cached(rows, 8)


@pytest.mark.parametrize("kind", [decode_all, open_disk_cache])
def test_numbers_must_be_positive(kind, source):
    for options in ({"image_size": 0}, {"image_size": 8, "num_threads": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            kind(source, **options)


def test_a_cache_may_lie_elsewhere(source, tmp_path, decodings):
    for _ in range(2):
        open_disk_cache(source, 8, folder=tmp_path / "new" / "caches")
    assert len(decodings) == NUM_ROWS and not disk.caches_folder().exists()
    assert disk.is_cached(source, 8, tmp_path / "new" / "caches") and not disk.is_cached(source, 8)


def test_the_required_bytes_are_those_of_the_files(source):
    open_disk_cache(source, 16)
    place = next(path for path in disk.caches_folder().iterdir() if path.is_dir())
    size = sum(path.stat().st_size for path in place.glob("*.npy"))
    assert size == required(NUM_ROWS, 16) + 4 * 128  # numpy's headers


NEEDED = required(NUM_ROWS, 16)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def resources(monkeypatch):
    def set_resources(*, memory=0.0, device=0.0, space=0.0):
        """In multiples of what the images need."""
        monkeypatch.setattr(choice, "_available_memory", lambda: int(memory * NEEDED))
        monkeypatch.setattr(choice, "_free_on", lambda device_: int(device * NEEDED))
        monkeypatch.setattr(choice, "_free_space", lambda *place: int(space * NEEDED))

    return set_resources


@pytest.mark.parametrize(
    "expected, device, free, options",
    [
        ("device", GPU, {"memory": 2.1, "device": 2.1}, {}),
        ("none", GPU, {"memory": 1.9, "device": 9}, {}),
        ("memory", GPU, {"memory": 3.1, "device": 1.9}, {}),
        ("device", GPU, {"memory": 4.1, "device": 2.1, "space": 9}, {"num_processes": 2}),
        ("disk", GPU, {"memory": 3.9, "device": 2.1, "space": 9}, {"num_processes": 2}),
        ("memory", CPU, {"memory": 3.1, "device": 9, "space": 9}, {}),
        ("disk", CPU, {"memory": 2.9, "space": 2.1}, {}),
        ("disk", CPU, {"memory": 9, "space": 2.1}, {"num_processes": 2}),
        ("none", CPU, {"memory": 2.9, "space": 1.9}, {}),
        ("none", CPU, {"memory": 9, "space": 9}, {"epochs": 1}),
        ("memory", CPU, {"memory": 9, "space": 9}, {"epochs": 2}),
    ],
)
def test_auto_takes_what_fits_and_says_why(expected, device, free, options, source, resources, caplog):
    resources(**free)
    caplog.set_level(logging.INFO)
    options = {"epochs": 10, **options}
    assert choose_cache("auto", source, 16, device=device, **options) == expected
    assert len(caplog.records) == 1 and f"Cache: {expected} for" in caplog.text and ", as " in caplog.text


def test_auto_keeps_no_stream_and_takes_a_cache_that_is_there(source, pinned_stream, resources):
    open_disk_cache(source, 16)
    open_disk_cache(pinned_stream, 16)
    resources()
    assert choose_cache("auto", source, 16, 10, CPU) == "disk"
    assert choose_cache("disk", source, 16, 10, CPU) == "disk"
    resources(memory=9, device=9, space=9)
    assert choose_cache("auto", pinned_stream, 16, 10, GPU) == "none"


@pytest.mark.parametrize("requested", ["device", "memory", "disk", "none"])
def test_what_is_asked_for_is_taken_where_it_fits(requested, source, pinned_stream, resources):
    resources(memory=1, device=1, space=1)
    for rows in (source, pinned_stream):
        for epochs in (1, 10):
            assert choose_cache(requested, rows, 16, epochs, GPU) == requested


@pytest.mark.parametrize(
    "requested, device, free, num_processes, error, reason",
    [
        ("device", CPU, {"memory": 9, "device": 9}, 1, ValueError, "model is on 'cpu'.*choose memory, disk or auto"),
        ("device", GPU, {"memory": 9, "device": 0.99}, 1, ValueError, r"need 29\.3 kB and cuda:0 has 29\.0 kB free"),
        ("device", GPU, {"memory": 0.99, "device": 9}, 1, ValueError, r"need 29\.3 kB of memory and 29\.0 kB are"),
        ("memory", CPU, {"memory": 0.99}, 1, ValueError, r"need 29\.3 kB of memory and 29\.0 kB are available"),
        ("memory", CPU, {"memory": 1.99}, 2, ValueError, r"once in each of 2 processes, and 58\.4 kB are available"),
        ("disk", CPU, {"space": 0.99}, 1, OSError, r"need 29\.3 kB, but the disk has 29\.0 kB free"),
        ("ram", CPU, {}, 1, ValueError, "must be one of auto, device, memory, disk, none"),
    ],
)
def test_what_does_not_fit_is_an_error(requested, device, free, num_processes, error, reason, source, resources):
    resources(**free)
    with pytest.raises(error, match=reason):
        choose_cache(requested, source, 16, 10, device, num_processes=num_processes)


def test_a_container_limits_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_CGROUP", tmp_path)
    whole = choice._available_memory()
    assert whole > 10**8
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 2500\n")
    assert choice._available_memory() == 3500
    (tmp_path / "memory.max").write_text("max\n")
    assert choice._available_memory() > 10**8


def test_what_is_replaced_counts_as_free_space_and_leftovers_are_removed_first(source, monkeypatch):
    usage = SimpleNamespace(free=NEEDED - 1)
    monkeypatch.setattr(choice.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(OSError, match="make space"):
        choose_cache("disk", source, 16, 10, CPU)
    leftover = disk.caches_folder() / ".other.building"
    leftover.mkdir(parents=True)
    stale = disk._place(source, 16, None)
    stale.mkdir()
    (stale / "images.npy").write_bytes(b"x")
    assert choose_cache("disk", source, 16, 10, CPU) == "disk"
    assert not leftover.exists()


def test_the_free_space_is_that_of_the_disk(source, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert choice._free_space(source, 16, tmp_path / "not" / "yet") == pytest.approx(free, rel=0.05)


def test_images_in_rows_and_in_files_are_decoded_alike(tmp_path, source):
    folder = tmp_path / "set" / "train" / "a"
    folder.mkdir(parents=True)
    for row in range(3):
        PIL.Image.open(io.BytesIO(draw(row))).save(folder / f"{row}.png")
    opened = open_source(str(tmp_path / "set"), split="train")
    cached = open_disk_cache(opened, 8)
    for row, image in enumerate(opened.dataset["image"]):
        np.testing.assert_array_equal(cached.images[row], decode_image(encoded_bytes(image, opened.root), 8)[0])
    np.testing.assert_array_equal(cached.images, decode_all(source.head(3), 8).images)
