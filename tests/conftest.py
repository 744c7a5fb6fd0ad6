"""Settings and fixtures of all tests: a Hub on loopback instead of the network, no progress bars."""

import atexit
import os
import shutil
import tempfile

from hub_server import HubServer

# The loopback Hub alone, and a home of their own: no test reaches the network, reads a user's token or leaves a
# cache behind. Hugging Face's libraries read this when they are imported.
HUB = HubServer()
HUB.start()
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
    del os.environ[name]
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_ssl-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["HF_ENDPOINT"] = HUB.url
os.environ["no_proxy"] = "127.0.0.1"
os.environ["HF_HUB_DISABLE_XET"] = "1"  # Xet has servers of its own
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # counted at an address of its own
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import pytest
import torch
from huggingface_hub import HfFileSystem
from huggingface_hub.utils import _http
from tiny_models import TINY

from hf_ssl.data import make_textures

# Tests are small: more threads cost more than they bring, and the two-process tests share the cores.
torch.set_num_threads(1)
datasets.disable_progress_bars()
datasets.config.USE_PARQUET_EXPORT = False  # asked of a server of its own


@pytest.fixture
def hub(monkeypatch):
    """The Hub on loopback, empty, as are the clients' caches; HF_TOKEN is that of ana, who may write for org.

    The clients retry as they always do, but do not wait before.
    """
    HUB.reset()
    HUB.add_token("hf_writeTokenOfTheLoopbackHub", user="ana", orgs=("org",))
    monkeypatch.setenv("HF_TOKEN", "hf_writeTokenOfTheLoopbackHub")
    for cache in ("hub", "datasets"):
        shutil.rmtree(os.path.join(os.environ["HF_HOME"], cache), ignore_errors=True)
    HfFileSystem.clear_instance_cache()
    for retrying in (_http.http_backoff, _http.http_stream_backoff.__wrapped__):
        monkeypatch.setitem(retrying.__kwdefaults__, "base_wait_time", 0)
    for interval in ("STREAMING_OPEN_RETRY_INTERVAL", "STREAMING_READ_RETRY_INTERVAL"):
        monkeypatch.setattr(datasets.config, interval, 0)
    yield HUB
    HUB.start()
    assert not HUB.errors, "\n".join(HUB.errors)


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
