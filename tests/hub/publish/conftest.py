import pytest

from hf_ssl.hub.publish import client


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(client, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def folder(tmp_path):
    """Small files, one of them large to the Hub."""
    folder = tmp_path / "model"
    (folder / "pretraining").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A model\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "pretraining" / "model.safetensors").write_bytes(b"other weights")
    return folder
