"""A folder to a repository of the Hub, as it is, in one commit or not at all."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_ssl.hub.publish.client import HubError, call_hub

# What the Hub itself puts into a new repository.
HUB_FILES = (".gitattributes",)


def upload_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    message: str,
    is_ours: Callable[[set[str]], bool],
    repo_type: str = "model",
    private: bool = False,
    **create: str,
) -> str:
    """Make the repository hold exactly what the folder holds; a new one is created.

    The files go in one commit on top of the state that was looked at: whoever reads meanwhile finds the old state or
    the new one, and what somebody else pushed in between is not overwritten. Large files that an earlier attempt has
    brought to the Hub are not sent again.

    Args:
        api: from `open_hub`.
        folder: what to upload.
        repo_id: "org/name".
        message: of the commit.
        is_ours: whether an existing repository with these paths may be replaced.
        repo_type: "model", "dataset" or "space".
        private: whether a new repository is private; one that exists must be so already.
        create: further arguments of `HfApi.create_repo`, such as `space_sdk`.

    Returns:
        The commit's hash.

    Raises:
        FileExistsError: if the repository holds something else.
        PermissionError: if the token may not write.
        HubError: if the Hub cannot be reached or refuses; the repository is then as it was, or new and empty.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    head, others = check_ours(api, repo_id, repo_type, is_ours, private)
    if head is None:
        # A lost answer to this call shows on the second one, which then finds what the first one made.
        call_hub(
            f"create {repo_id}",
            lambda: api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **create),
        )
        head, others = check_ours(api, repo_id, repo_type, is_ours)

    def commit() -> str:
        # An answer that got lost leaves the commit behind, which is seen here and not made twice.
        if holds(api, repo_id, repo_type, files):
            return find_head(api, repo_id, repo_type)
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in sorted(others - set(files))]
        try:
            return api.create_commit(
                repo_id, operations, commit_message=message, repo_type=repo_type, parent_commit=head
            ).oid
        except HfHubHTTPError as error:
            if error.response.status_code == 412 and not holds(api, repo_id, repo_type, files):
                raise HubError(
                    f"Somebody else changed {repo_id} during the upload, which was given up; look at what is there, "
                    "and run the same command again."
                ) from error
            if error.response.status_code == 412:
                return find_head(api, repo_id, repo_type)
            raise

    return call_hub(f"upload to {repo_id}", commit)


def check_ours(
    api: HfApi, repo_id: str, repo_type: str, is_ours: Callable[[set[str]], bool], private: bool = False
) -> tuple[str | None, set[str]]:
    """The head of a repository, None if there is no such, and the paths in it.

    Raises:
        FileExistsError: if they are not those of a repository that may be replaced; or if `private` is asked for and
            it is there and public.
    """
    head = find_head(api, repo_id, repo_type)
    if private and head is not None:
        is_private = call_hub(f"look at {repo_id}", lambda: api.repo_info(repo_id, repo_type=repo_type).private)
        if not is_private:
            raise FileExistsError(
                f"{repo_id} exists and is public; make it private in its settings on the Hub first, or choose another "
                "name."
            )
    paths = set(list_files(api, repo_id, repo_type, head)) - set(HUB_FILES) if head is not None else set()
    if paths and not is_ours(paths):
        raise FileExistsError(
            f"{repo_id} exists and was not made by hf_ssl (it holds {min(paths)}), so it is left alone; choose "
            "another name, or remove what is in it on its page on the Hub."
        )
    return head, paths


def find_head(api: HfApi, repo_id: str, repo_type: str) -> str | None:
    """The hash of the newest commit of the main branch, None if there is no such repository."""

    def look() -> str | None:
        try:
            return api.repo_info(repo_id, repo_type=repo_type).sha
        except RepositoryNotFoundError:
            return None

    return call_hub(f"look at {repo_id}", look)


def list_files(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> dict[str, RepoFile]:
    """The files of a repository by their paths."""
    entries = call_hub(
        f"list the files of {repo_id}",
        lambda: list(api.list_repo_tree(repo_id, recursive=True, repo_type=repo_type, revision=revision)),
    )
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def holds(api: HfApi, repo_id: str, repo_type: str, files: dict[str, Path]) -> bool:
    """Whether the main branch holds these files, byte for byte, and no others."""
    present = list_files(api, repo_id, repo_type)
    return set(present) - set(HUB_FILES) == set(files) and all(
        is_same(present[name], path) for name, path in files.items()
    )


def is_same(entry: RepoFile, path: Path) -> bool:
    """Whether a file of a repository has the content of a local one, by git's hash or a large file's SHA-256."""
    if entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        with path.open("rb") as file:
            return entry.lfs.sha256 == hashlib.file_digest(file, "sha256").hexdigest()
    content = path.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
