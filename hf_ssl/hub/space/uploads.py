"""Files that visitors of the app send."""

from pathlib import Path

from hf_ssl.data import UndecodableImageError


def read_upload(path: str, uploads: Path) -> bytes:
    """The bytes of an uploaded file.

    A request that no browser sent may name any file of the machine, and Gradio 6.31 lets it through to a listener with
    `preprocess=False` if the request leaves `meta` out.

    Args:
        path: where Gradio says the file is.
        uploads: the folder that Gradio puts uploads into.

    Raises:
        UndecodableImageError: there is no such file among the uploads.
    """
    file = Path(path).resolve()
    if not file.is_relative_to(uploads.resolve()) or not file.is_file():
        raise UndecodableImageError("There is no such upload; send a picture first.")
    return file.read_bytes()
