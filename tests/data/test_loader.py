import itertools
import logging
import threading

import datasets
import pyarrow as pa
import pytest
import torch
from numbered_images import NUM_ROWS, encode, height_and_width
from pyarrow import parquet

from hf_ssl.data import ImageLoader, UndecodableImageError, loader, open_source, wrap_dataset
from hf_ssl.data.sources import int64_label


@pytest.fixture(params=["random access", "stream"])
def source(request, parquet_folder, monkeypatch):
    if request.param == "random access":
        return open_source(str(parquet_folder), split="train")
    # Much smaller than the data, so that rows flow through the buffer as they do in a long stream.
    monkeypatch.setattr(loader, "SHUFFLE_BUFFER_ROWS", 8)
    files = sorted(str(file) for file in parquet_folder.glob("data/train-*.parquet"))
    stream = datasets.load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)
    return wrap_dataset(stream, name="numbered", split="train", num_rows=NUM_ROWS)


def load(source, *, epoch=0, start=0, **options):
    options = {"batch_size": 4, "image_size": 8, **options}
    return list(ImageLoader(source, **options).epoch(epoch, start))


def labels(batches):
    return [batch.labels.tolist() for batch in batches]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def live_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hf_ssl")]


def test_image_size_and_label_of_a_row_stay_together(source):
    for batch in load(source):
        assert batch.images.shape == (4, 3, 8, 8) and batch.images.dtype == torch.uint8
        assert batch.sizes.dtype == batch.labels.dtype == torch.int64
        for image, size, label in zip(batch.images, batch.sizes.tolist(), batch.labels.tolist(), strict=True):
            assert (image == 5 * label).all()
            assert tuple(size) == height_and_width(label)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_of_all_ranks_are_the_batch_of_one_process(source, world_size, shuffle):
    options = {"seed": 3, "epoch": 2, "shuffle": shuffle}
    ranks = [labels(load(source, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]
    single = labels(load(source, batch_size=4 * world_size, **options))
    assert len(single) == NUM_ROWS // (4 * world_size)
    assert [sorted(flat(batches)) for batches in zip(*ranks, strict=True)] == [sorted(batch) for batch in single]


@pytest.mark.parametrize("rank, world_size", [(0, 1), (1, 2)])
def test_resuming_equals_the_uninterrupted_epoch(source, rank, world_size):
    options = {"batch_size": 3, "seed": 1, "epoch": 5, "rank": rank, "world_size": world_size}
    uninterrupted = load(source, **options)
    for start in range(len(uninterrupted) + 1):
        resumed = load(source, start=start, **options)
        assert len(resumed) == len(uninterrupted) - start
        for left, right in zip(resumed, uninterrupted[start:], strict=True):
            assert torch.equal(left.images, right.images)
            assert torch.equal(left.sizes, right.sizes)
            assert torch.equal(left.labels, right.labels)


def test_skipped_images_are_not_decoded(source, monkeypatch):
    decoded = []
    decode_image = loader.decode_image

    def counting(data, size):
        decoded.append(data)
        return decode_image(data, size)

    monkeypatch.setattr(loader, "decode_image", counting)
    assert len(load(source, start=7)) == 2
    assert len(decoded) == 2 * 4


def test_order_depends_on_seed_and_epoch_alone(source):
    orders = [flat(labels(load(source, seed=seed, epoch=epoch))) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[1] == flat(labels(load(source, seed=0, epoch=1, num_threads=1)))
    assert all(order != sorted(order) for order in orders)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_without_drop_last_every_row_comes_once(source, shuffle, world_size):
    seen = []
    for rank in range(world_size):
        options = {"batch_size": 4, "image_size": 8, "rank": rank, "world_size": world_size}
        images = ImageLoader(source, shuffle=shuffle, drop_last=False, **options)
        batches = labels(images.epoch(0))
        assert len(batches) == images.batches_per_epoch
        assert all(len(batch) == 4 for batch in batches[:-1])
        seen += flat(batches)
    assert sorted(seen) == list(range(NUM_ROWS))
    if world_size == 1 and not shuffle:
        assert seen == sorted(seen)


def test_all_ranks_have_equally_many_full_batches(source):
    for rank in range(3):
        images = ImageLoader(source, batch_size=5, image_size=8, rank=rank, world_size=3)
        assert images.batches_per_epoch == NUM_ROWS // 15
        assert [len(batch) for batch in labels(images.epoch(0))] == [5, 5]


def test_without_a_label_column_labels_are_minus_one(parquet_folder):
    source = open_source(str(parquet_folder), split="train", label_column=None)
    assert source.class_names is None
    assert all((batch.labels == -1).all() for batch in load(source))


def broken_rows(broken, count=12):
    images = [b"not an image" if row in broken else encode([[[9 * row] * 3]]) for row in range(count)]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = {"image": [{"bytes": image, "path": None} for image in images], "label": list(range(count))}
    return wrap_dataset(datasets.Dataset.from_dict(rows, features=features), name="broken", split="train")


def test_broken_images_are_replaced_from_the_same_batch_and_reported_once(caplog):
    images = ImageLoader(broken_rows({1, 2, 7}), batch_size=4, image_size=2, shuffle=False)
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            batches = list(images.epoch(epoch))
            assert labels(batches) == [[0, 3, 3, 3], [4, 5, 6, 4], [8, 9, 10, 11]]
            for batch in batches:
                assert (batch.images == 9 * batch.labels[:, None, None, None]).all()
    assert images.num_undecodable == 2 * 3
    assert sorted(record.args[0] for record in caplog.records) == [1, 2, 7]


def test_a_batch_without_a_decodable_image_is_an_error():
    images = ImageLoader(broken_rows({4, 5, 6, 7}), batch_size=4, image_size=2, shuffle=False).epoch(0)
    assert next(images).labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(UndecodableImageError, match=r"Not one of the 4 images.*row 4.*image_column"):
        next(images)
    assert not live_threads()


def test_errors_in_threads_reach_the_consumer(source, monkeypatch):
    def fail(data, size):
        raise MemoryError("no memory left")

    monkeypatch.setattr(loader, "decode_image", fail)
    with pytest.raises(MemoryError, match=r"no memory left"):
        load(source)
    assert not live_threads()


def test_leaving_an_epoch_early_leaves_no_thread(source):
    images = ImageLoader(source, batch_size=1, image_size=8)
    images.epoch(0)
    for _ in images.epoch(0):
        break
    assert not live_threads()
    iterator = images.epoch(0)
    next(iterator)
    assert live_threads()
    iterator.close()
    assert not live_threads()
    assert len(list(images.epoch(0))) == NUM_ROWS
    assert not live_threads()


def test_a_stream_shorter_than_stated_is_an_error(parquet_folder):
    stream = datasets.load_dataset("parquet", data_dir=str(parquet_folder), split="train", streaming=True)
    source = wrap_dataset(stream, name="numbered", split="train", num_rows=NUM_ROWS + 8)
    with pytest.raises(RuntimeError, match=rf"ended after about {NUM_ROWS} rows.*states 45.*num_rows"):
        load(source)


def test_unusable_arguments_are_refused(source):
    with pytest.raises(ValueError, match=r"37 rows.*one batch of 20 on each of 2 processes.*at most 18"):
        ImageLoader(source, batch_size=20, image_size=8, world_size=2)
    with pytest.raises(ValueError, match=r"rank=2 .* 0 \.\. world_size - 1 = 1"):
        ImageLoader(source, batch_size=4, image_size=8, rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"image_size=0 .* at least 1"):
        ImageLoader(source, batch_size=4, image_size=0)
    images = ImageLoader(source, batch_size=4, image_size=8)
    with pytest.raises(ValueError, match=r"start=10 .* 9 batches.*0 \.\. 9"):
        images.epoch(0, start=10)


def test_rows_that_name_files_elsewhere_are_broken_and_rows_without_a_label_have_minus_one(tmp_path):
    (tmp_path / "secret.png").write_bytes(encode([[[200] * 3]]))
    images = [{"bytes": encode([[[9] * 3]]), "path": None}, {"bytes": None, "path": str(tmp_path / "secret.png")}]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = datasets.Dataset.from_dict({"image": images, "label": [None, 4]}, features=features)
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set" / "train.parquet")
    # What writes parquet may put files into it; the row is written as an attacker would.
    table = parquet.read_table(tmp_path / "set" / "train.parquet")
    column = pa.array(images, table.schema.field("image").type)
    parquet.write_table(table.set_column(0, table.schema.field("image"), column), tmp_path / "set" / "train.parquet")
    images = ImageLoader(open_source(str(tmp_path / "set"), split="train"), batch_size=2, image_size=1, shuffle=False)
    [batch] = images.epoch(0)
    assert images.num_undecodable == 1
    assert batch.images.unique().tolist() == [9] and batch.labels.tolist() == [-1, -1]


def test_a_label_that_is_too_great_is_one_sentence():
    with pytest.raises(ValueError, match="number the classes from 0"):
        int64_label(2**63)
    assert [int64_label(label) for label in (None, 0, 2**63 - 1)] == [-1, 0, 2**63 - 1]
