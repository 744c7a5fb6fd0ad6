"""Settings and fixtures of all tests: no network, no progress bars."""

import atexit
import os
import shutil
import tempfile

# A home of their own: no test reads a user's token or leaves a cache behind.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_ssl-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import pytest
import torch
from tiny_models import TINY

from hf_ssl.data import make_textures

# Tests are small: more threads cost more than they bring, and the two-process tests share the cores.
torch.set_num_threads(1)
datasets.disable_progress_bars()


@pytest.fixture(params=sorted(TINY))
def tiny_config(request):
    """A tiny config of each method."""
    return TINY[request.param]()


@pytest.fixture(scope="session")
def texture_folder(tmp_path_factory):
    """A few embedded textures as a local data set in the Hub's layout: 64 training and 40 validation images."""
    folder = tmp_path_factory.mktemp("textures")
    (folder / "data").mkdir()
    for split, count in (("train", 64), ("validation", 40)):
        make_textures(split, num_images=count).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder
