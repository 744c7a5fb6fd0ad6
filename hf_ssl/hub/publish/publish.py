"""`hf-ssl publish`: a run or a repository folder to the Hub, and nothing said before it was read back.

The order is what makes it safe: names, rights and the folder are looked at before anything takes time, every door is
opened and the card's code is run before anything is uploaded, the upload is one commit, and the tag comes last, on a
commit that was downloaded again and whose card's code was run again.
"""

import filecmp
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, snapshot_download

from hf_ssl.evaluation.results import read_results
from hf_ssl.hub.card.code_blocks import run_code_blocks
from hf_ssl.hub.card.model_card import render_card, render_code_blocks
from hf_ssl.hub.doors.table import EVALUATION_VIEW, check_doors
from hf_ssl.hub.publish.client import HubError, call_hub, check_repo_id, open_hub
from hf_ssl.hub.publish.upload import check_ours, find_head, upload_folder
from hf_ssl.hub.repository.assemble import assemble_repository
from hf_ssl.hub.repository.layout import is_repository
from hf_ssl.hub.repository.validate import validate_repository


@dataclass(frozen=True)
class Published:
    """A repository on the Hub.

    Attributes:
        repo_id: "org/name".
        revision: hash of the commit that was read back.
        tag: its tag.
        url: of the repository's page.
    """

    repo_id: str
    revision: str
    tag: str
    url: str


def publish(
    path: Path,
    repo_id: str,
    *,
    tag: str | None = None,
    private: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    report: Callable[[str], None] = print,
) -> Published | None:
    """Publish a run, or the repository folder of one.

    Args:
        path: folder of an evaluated run, or what `assemble_repository` made of it.
        repo_id: "org/name" of the repository, made if it is not there.
        tag: of the commit; the next free one of v1, v2, … if not given.
        private: whether a new repository is private; one that exists must be so already.
        message: of the commit; names the model if not given.
        dry_run: stop before the network, with everything checked that can be checked without it.
        report: called with a line of text as each step ends.

    Returns:
        What is on the Hub now; None after a dry run.

    Raises:
        ValueError: the name is not allowed, the folder is not fit, a door does not open, or the card's code fails.
        FileExistsError: the repository holds something else, or the tag is there.
        FileNotFoundError: `path` is neither a run nor a repository folder.
        PermissionError: no token, or none that may write.
        HubError: the Hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    check_tag(tag)
    if not (path / "results.json").is_file():
        raise FileNotFoundError(
            f"'{path}' is neither a run nor a repository folder; give what `hf-ssl pretrain` or `hf-ssl card` wrote."
        )
    if not dry_run:
        api = open_hub(repo_id)
        check_published_by_us(api, repo_id, private)
        tag = choose_tag(api, repo_id, tag)
    with TemporaryDirectory(prefix="hf_ssl-publish-") as scratch:
        folder = stage(path, Path(scratch), repo_id.split("/")[1])
        check_here(folder, report)
        # What is on the Hub is loaded from there: so says its card.
        (folder / "README.md").write_text(render_card(folder, repo_id), encoding="utf-8", newline="\n")
        if dry_run:
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            report(f"Dry run: {size / 1e6:,.1f} MB would go to {repo_id}; nothing was sent.")
            return None

        revision = upload_folder(
            api,
            folder,
            repo_id,
            message=message or f"{folder.name}, with its results",
            is_ours=is_repository,
            private=private,
        )
        report(f"uploaded as commit {revision[:12]}")
        undo = (
            f"The commit {revision[:12]} of {repo_id} stays without a tag; look into it, and publish again or revert "
            "it on the repository's page."
        )
        try:
            read_back(api, folder, repo_id, revision, report)
            call_hub(
                f"tag {repo_id} as {tag}", lambda: api.create_tag(repo_id, tag=tag, revision=revision, exist_ok=True)
            )
            tagged = call_hub(f"look at the tag {tag}", lambda: api.repo_info(repo_id, revision=tag).sha)
            if tagged != revision:
                raise HubError(f"The tag '{tag}' was given to another commit meanwhile; choose another --tag.")
        except (OSError, ValueError) as error:
            raise HubError(f"{error} {undo}") from error
        except KeyboardInterrupt as interruption:
            raise KeyboardInterrupt(f"Interrupted. {undo}") from interruption
        return Published(repo_id, revision, tag, f"{api.endpoint}/{repo_id}")


def stage(path: Path, scratch: Path, name: str) -> Path:
    """A copy of the repository under the name that it will have, whose card says so."""
    if (path / "recipe.yaml").is_file() and (path / "config.json").is_file():
        validate_repository(path)
        folder = Path(shutil.copytree(path, scratch / name))
        (folder / "README.md").write_text(render_card(folder), encoding="utf-8", newline="\n")
        return folder
    folder = assemble_repository(path, scratch / name)
    validate_repository(folder)
    return folder


def check_here(folder: Path, report: Callable[[str], None]) -> None:
    """Open every door of a repository folder and run its card's code, without a network."""
    rows = [row for row in check_doors(folder) if row.door != EVALUATION_VIEW]
    report(f"{len(rows)} doors open and differ by {max(row.max_difference for row in rows):.1e} at most")
    blocks = render_code_blocks(folder)
    run_code_blocks(blocks, folder.parent, {"HF_HUB_OFFLINE": "1"})
    report(f"{len(blocks)} code blocks of the card run on the folder")


def check_tag(tag: str | None) -> None:
    """Raise a `ValueError` unless `tag` is a name that git allows and that is not a branch's."""
    if tag is None:
        return
    allowed = re.fullmatch(r"[A-Za-z0-9][\w.-]*", tag) and ".." not in tag and not tag.endswith((".", ".lock"))
    if not allowed or tag in ("main", "HEAD"):
        raise ValueError(f"'{tag}' is no name for a tag; use letters, digits, '-', '_' and '.', such as v1.")


def check_published_by_us(api: HfApi, repo_id: str, private: bool) -> str | None:
    """The head of the repository if it is one of ours, None if there is no such.

    Raises:
        FileExistsError: if it holds anything else, or is public where `private` is asked for.
    """
    head, paths = check_ours(api, repo_id, "model", is_repository, private)
    if paths:
        with TemporaryDirectory(prefix="hf_ssl-results-") as cache:
            downloaded = call_hub(
                f"read the results of {repo_id}",
                lambda: api.hf_hub_download(repo_id, "results.json", revision=head, cache_dir=cache),
            )
            try:
                read_results(downloaded)
            except ValueError as error:
                raise FileExistsError(
                    f"{repo_id} exists and was not made by hf_ssl (its results.json is another one), so it is left "
                    "alone; choose another name."
                ) from error
    return head


def choose_tag(api: HfApi, repo_id: str, tag: str | None) -> str:
    """A tag that is free: the given one, or the next of v1, v2, …

    Raises:
        FileExistsError: the given one is taken.
    """
    taken: set[str] = set()
    if find_head(api, repo_id, "model") is not None:
        refs = call_hub(f"list the tags of {repo_id}", lambda: api.list_repo_refs(repo_id))
        taken = {ref.name for ref in refs.tags}
    if tag is None:
        number = 1
        while f"v{number}" in taken:
            number += 1
        return f"v{number}"
    if tag in taken:
        raise FileExistsError(f"{repo_id} has a tag '{tag}' already; choose another --tag, or leave it out.")
    return tag


def read_back(api: HfApi, folder: Path, repo_id: str, revision: str, report: Callable[[str], None]) -> None:
    """Download a commit into an empty cache, compare it with the folder, and run the card's code on it.

    Raises:
        HubError: the download failed, or what came back differs.
        CardCodeError: the card's code fails on it.
    """
    with TemporaryDirectory(prefix="hf_ssl-download-") as cache:
        downloaded = Path(
            call_hub(
                f"download {repo_id} again",
                lambda: snapshot_download(repo_id, revision=revision, cache_dir=cache, token=api.token),
            )
        )
        files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
        differing = [
            str(file)
            for file in files
            if not (downloaded / file).is_file() or not filecmp.cmp(folder / file, downloaded / file, shallow=False)
        ]
        if differing:
            raise HubError(f"{differing[0]} came back from the Hub differently.")
        report(f"{len(files)} files downloaded again are the same")
        blocks = render_code_blocks(folder, repo_id)
        Path(cache, "work").mkdir()
        run_code_blocks(blocks, Path(cache, "work"), {"HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "0"})
        report(f"{len(blocks)} code blocks of the card run on the download")
