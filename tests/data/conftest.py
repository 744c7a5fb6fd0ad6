import itertools

import datasets
import pytest
from numbered_images import NUM_ROWS, draw


@pytest.fixture(autouse=True)
def quick_and_clean_datasets(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Waited at the end of each shuffled parquet stream, for a crash of remote file systems only.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture(scope="session")
def numbered_rows():
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[f"number {row}" for row in range(NUM_ROWS)])
    )
    rows = {
        "image": [{"bytes": draw(row), "path": None} for row in range(NUM_ROWS)],
        "label": list(range(NUM_ROWS)),
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="session")
def parquet_folder(numbered_rows, tmp_path_factory):
    """The numbered images as six uneven shards in the Hub's layout; two and three ranks divide six."""
    folder = tmp_path_factory.mktemp("numbered")
    (folder / "data").mkdir()
    bounds = (0, 5, 14, 20, 26, 31, NUM_ROWS)
    for shard, (first, end) in enumerate(itertools.pairwise(bounds)):
        rows = numbered_rows.select(range(first, end))
        rows.to_parquet(str(folder / "data" / f"train-{shard:05d}-of-00006.parquet"))
    numbered_rows.select(range(10)).to_parquet(str(folder / "data" / "validation-00000-of-00001.parquet"))
    return folder
