import pytest

from hf_ssl.data import UndecodableImageError
from hf_ssl.hub.space.uploads import read_upload


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "uploads" / "ab12").mkdir(parents=True)
    (tmp_path / "uploads" / "ab12" / "mine.jpg").write_bytes(b"mine")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "uploads-of-others").mkdir()
    (tmp_path / "uploads-of-others" / "theirs.jpg").write_bytes(b"theirs")
    (tmp_path / "uploads" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return tmp_path / "uploads"


def test_an_upload_is_read(uploads):
    assert read_upload(str(uploads / "ab12" / "mine.jpg"), uploads) == b"mine"


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "link.jpg", "../uploads-of-others/theirs.jpg", "ab12", "nowhere.jpg", "/etc/hostname"]
)
def test_no_other_file_of_the_machine_is(uploads, path):
    with pytest.raises(UndecodableImageError, match="no such upload"):
        read_upload(str(uploads / path), uploads)
