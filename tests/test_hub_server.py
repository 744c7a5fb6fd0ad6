"""The unmodified clients against the Hub on loopback: what the other tests of publishing and loading stand on."""

import math
import os
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session
from tiny_models import TINY

from hf_ssl import MAEForPreTraining

CARD = b"---\nlicense: apache-2.0\ntags:\n- tiny\npipeline_tag: image-classification\n---\n# Tiny\n"
FILES = {
    "README.md": CARD,
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "pictures/views.png": b"\x89PNG\r\n" + bytes(300),
    "pretraining/config.json": b'{"a": 1}',
    "pretraining/model.safetensors": b"weights" * 999,
}
ATTRIBUTES = ".gitattributes"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "files", FILES)


@pytest.fixture
def published(hub, folder):
    """The server with org/tiny as the client uploaded it, tagged v1."""
    api = HfApi()
    api.create_repo("org/tiny")
    api.upload_folder(repo_id="org/tiny", folder_path=folder)
    api.create_tag("org/tiny", tag="v1")
    hub.requests.clear()
    return hub


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def read(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def add(path="note.txt", content=b"a note"):
    return [CommitOperationAdd(path, content)]


def commit(api, operations=None, **options):
    return api.create_commit("org/tiny", operations or add(), commit_message="Change", **options)


def paths(hub, method):
    return [path for asked, path in hub.requests if asked == method]


def status(raised):
    return raised.value.response.status_code


def test_what_is_uploaded_is_downloaded(published, tmp_path):
    """Through every door of the client, by branch, tag and commit."""
    repository = published.repository("model", "org/tiny")
    files = {**FILES, ATTRIBUTES: repository.files()[ATTRIBUTES]}
    assert repository.files("v1") == files
    assert [commit.title for commit in repository.commits.values()] == [
        "initial commit",
        "Upload folder using huggingface_hub",
    ]
    lfs = {path for path, file in repository.at("v1").tree.items() if file.is_lfs}
    assert lfs == {path for path in FILES if path.endswith((".safetensors", ".png"))}

    HfApi().upload_file(path_or_fileobj=b"later", path_in_repo="config.json", repo_id="org/tiny")
    assert read(snapshot_download("org/tiny", revision="v1", local_dir=tmp_path / "v1")).items() >= files.items()
    assert read(snapshot_download("org/tiny", revision=repository.tags["v1"])) == files
    assert read(snapshot_download("org/tiny")) == {**files, "config.json": b"later"}
    for path, content in FILES.items():
        assert Path(hf_hub_download("org/tiny", path, revision="v1")).read_bytes() == content
    assert published.unknown == []


def test_what_the_client_lists(published):
    api, head = HfApi(), published.repository("model", "org/tiny").branches["main"]
    info = api.model_info("org/tiny", revision="v1", files_metadata=True)
    assert (info.id, info.sha, info.private, info.pipeline_tag) == ("org/tiny", head, False, "image-classification")
    assert info.card_data.license == "apache-2.0" and {"tiny", "license:apache-2.0"} <= set(info.tags)
    sizes = {path: len(content) for path, content in FILES.items()}
    assert {file.rfilename: file.size for file in info.siblings if file.rfilename != ATTRIBUTES} == sizes
    listed = {entry.path: getattr(entry, "size", None) for entry in api.list_repo_tree("org/tiny", recursive=True)}
    del listed[ATTRIBUTES]
    assert listed == {**sizes, "pictures": None, "pretraining": None}
    in_folder = list(api.list_repo_tree("org/tiny", "pretraining", expand=True))
    assert [entry.path for entry in in_folder] == ["pretraining/config.json", "pretraining/model.safetensors"]
    assert {entry.last_commit.oid for entry in in_folder} == {head}
    assert [e.path for e in api.get_paths_info("org/tiny", ["pictures", "config.json", "no"])] == [
        "pictures",
        "config.json",
    ]
    refs = api.list_repo_refs("org/tiny")
    assert [(ref.name, ref.target_commit) for ref in refs.branches + refs.tags] == [("main", head), ("v1", head)]
    assert len(api.list_repo_commits("org/tiny")) == 2
    assert api.file_exists("org/tiny", "config.json") and not api.file_exists("org/tiny", "config.yaml")
    assert published.unknown == []


def test_parts_of_a_file(published):
    url, content = hf_hub_url("org/tiny", "model.safetensors", revision="v1"), FILES["model.safetensors"]
    for asked, part in {"3-9": content[3:10], "100-": content[100:], "-7": content[-7:], "0-99999": content}.items():
        answer = get_session().get(url, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, part)
        start = content.index(part) if asked != "-7" else len(content) - 7
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    assert get_session().get(url, headers={"Range": f"bytes={len(content)}-"}).status_code == 416


def test_the_same_folder_makes_no_commit(published, folder):
    HfApi().upload_folder(repo_id="org/tiny", folder_path=folder)
    assert paths(published, "PUT") == []
    assert len(published.repository("model", "org/tiny").commits) == 2


def test_files_and_folders_are_deleted(published):
    commit(HfApi(), [CommitOperationDelete("pretraining/"), CommitOperationDelete("config.json")])
    left = {path for path in FILES if not path.startswith("pretraining/")} - {"config.json"}
    assert published.repository("model", "org/tiny").files().keys() == left | {ATTRIBUTES}
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist: config.json"):
        commit(HfApi(), [CommitOperationDelete("config.json")])


def test_a_second_upload_sends_what_the_first_did_not(hub, folder):
    HfApi().create_repo("org/tiny")
    hub.fail("PUT", "/lfs/", status=403, times=1)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        HfApi().upload_folder(repo_id="org/tiny", folder_path=folder)
    repository = hub.repository("model", "org/tiny")
    assert repository.files().keys() == {ATTRIBUTES}
    there = set(repository.objects)
    hub.requests.clear()
    HfApi().upload_folder(repo_id="org/tiny", folder_path=folder)
    assert {path.split("/")[-1] for path in paths(hub, "PUT")} == set(repository.objects) - there
    assert len(repository.objects) == 3 and len(there) < 3
    assert repository.files().items() >= FILES.items()


@pytest.mark.parametrize("what", ["preupload", "lfs/objects/batch", "^/lfs/"])
@pytest.mark.parametrize("how", ["500", "503", "cut", "answer lost"])
def test_the_client_tries_an_upload_again(published, what, how):
    method = "PUT" if what == "^/lfs/" else "POST"
    if how in ("500", "503"):
        published.fail(method, what, status=int(how), times=2)
    else:
        published.cut(method, what, times=2, after=how == "answer lost")
    content = os.urandom(3_000_000)
    commit(HfApi(), add("more.bin", content))
    assert published.repository("model", "org/tiny").files()["more.bin"] == content
    assert len([path for path in paths(published, method) if what.strip("^") in path]) == 3


ONCE = {
    "whoami": lambda api: api.whoami(),
    "repos/create": lambda api: api.create_repo("org/new"),
    "validate-yaml": lambda api: commit(api, add("README.md", CARD + b"Changed.")),
    "/commit/": commit,
    "/tag/": lambda api: api.create_tag("org/tiny", tag="v2"),
    "/models/org/tiny$": lambda api: api.model_info("org/tiny"),
}


@pytest.mark.parametrize("path", ONCE)
def test_the_client_tries_once(published, path):
    """So whoever publishes has to try these again."""
    method = "GET" if path in ("whoami", "/models/org/tiny$") else "POST"
    published.fail(method, path, status=503)
    with pytest.raises(HfHubHTTPError) as raised:
        ONCE[path](HfApi())
    assert status(raised) == 503
    published.cut(method, path)
    with pytest.raises(HTTPError):
        ONCE[path](HfApi())
    ONCE[path](HfApi())
    assert published.unknown == []


def test_a_commit_whose_answer_is_lost_is_made(published):
    published.cut("POST", "/commit/", after=True)
    with pytest.raises(HTTPError):
        commit(HfApi())
    assert published.repository("model", "org/tiny").files()["note.txt"] == b"a note"


def test_a_download_is_resumed(published, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    content = FILES["model.safetensors"]
    published.cut("GET", "resolve/.*/model.safetensors")
    assert Path(hf_hub_download("org/tiny", "model.safetensors")).read_bytes() == content
    assert len(content) <= published.sent["/org/tiny/resolve/main/model.safetensors"] < len(content) + 1000


def test_a_hub_that_is_down(published):
    published.stop()
    with pytest.raises(HTTPError, match="refused"):
        HfApi().whoami()
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("org/tiny")
    published.start()
    assert read(snapshot_download("org/tiny")).items() >= FILES.items()


def test_a_parent_that_is_no_longer_the_head(published):
    repository = published.repository("model", "org/tiny")
    seen = repository.branches["main"]
    repository.commit({"config.json": b"somebody else's"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as raised:
        commit(HfApi(), parent_commit=seen)
    assert status(raised) == 412
    commit(HfApi(), parent_commit=repository.branches["main"])


def test_refs(published):
    api, repository = HfApi(), published.repository("model", "org/tiny")
    with pytest.raises(HfHubHTTPError) as raised:
        api.create_tag("org/tiny", tag="v1")
    assert status(raised) == 409
    api.create_tag("org/tiny", tag="v1", exist_ok=True)
    api.create_branch("org/tiny", branch="epoch/1")
    commit(api, revision="epoch/1")
    api.create_tag("org/tiny", tag="epoch-1", revision="epoch/1")
    assert "note.txt" in repository.files("epoch-1") and "note.txt" not in repository.files()
    assert Path(hf_hub_download("org/tiny", "note.txt", revision="epoch/1")).read_bytes() == b"a note"
    api.delete_tag("org/tiny", tag="v1")
    api.delete_branch("org/tiny", branch="epoch/1")
    for missing in ("v1", "epoch/1", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            snapshot_download("org/tiny", revision=missing)
    for name in ("a b", "a..b", "v~1"):
        with pytest.raises(BadRequestError):
            api.create_tag("org/tiny", tag=name)


def test_who_may_write(published):
    published.add_token("hf_read", role="read", orgs=("org",))
    published.add_token("hf_bob", user="bob", read_orgs=("org",))
    published.add_token("hf_fine", role="fineGrained", orgs=("org",), scopes={"org/tiny": ["repo.write"]})
    for token in ("hf_read", "hf_bob"):
        for call in (commit, lambda api: api.create_repo("org/new"), lambda api: api.create_tag("org/tiny", tag="v2")):
            with pytest.raises(HfHubHTTPError, match="403 Forbidden") as raised:
                call(HfApi(token=token))
            assert status(raised) == 403
    fine = HfApi(token="hf_fine")
    commit(fine)
    with pytest.raises(HfHubHTTPError, match="rights to create a model under the namespace"):
        fine.create_repo("org/new")
    assert fine.whoami()["auth"]["accessToken"]["fineGrained"]["scoped"][0]["entity"]["name"] == "org/tiny"
    orgs = [(org["name"], org["roleInOrg"]) for org in HfApi(token="hf_bob").whoami()["orgs"]]
    assert orgs == [("org", "read")]
    for token in (False, "hf_unknown"):
        for call in (commit, lambda api: api.create_repo("org/new")):
            with pytest.raises(HfHubHTTPError) as raised:
                call(HfApi(token=token))
            assert status(raised) == 401
    assert [kind for kind, _ in published._repositories] == ["model"]


def test_private_repositories_look_missing_to_others(hub):
    HfApi().create_repo("ana/secret", private=True)
    hub.add_token("hf_bob", user="bob")
    for repo_id in ("ana/secret", "ana/nothing"):
        for token, code in ((False, 401), ("hf_bob", 404)):
            with pytest.raises(RepositoryNotFoundError) as raised:
                hf_hub_download(repo_id, ATTRIBUTES, token=token)
            assert status(raised) == code
    assert Path(hf_hub_download("ana/secret", ATTRIBUTES)).is_file()
    HfApi().update_repo_settings("ana/secret", private=False)
    assert HfApi(token=False).model_info("ana/secret").private is False


def test_repositories(hub):
    api = HfApi()
    for kind in ("model", "dataset", "space"):
        url = api.create_repo("org/tiny", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
        assert (url.repo_id, url.repo_type) == ("org/tiny", kind)
        assert api.create_repo("org/tiny", repo_type=kind, exist_ok=True, space_sdk="gradio").repo_type == kind
        assert api.repo_info("org/tiny", repo_type=kind).sha == hub.repository(kind, "org/tiny").branches["main"]
        commit(api, repo_type=kind)
        assert Path(hf_hub_download("org/tiny", "note.txt", repo_type=kind)).read_bytes() == b"a note"
    with pytest.raises(HfHubHTTPError) as raised:
        api.create_repo("org/tiny")
    assert status(raised) == 409
    with pytest.raises(BadRequestError, match="Invalid repo name"):
        api.create_repo("org/tiny.ipynb")
    api.delete_repo("org/tiny", repo_type="space")
    assert not api.repo_exists("org/tiny", repo_type="space") and api.repo_exists("org/tiny")
    assert hub.unknown == []


def test_an_object_that_was_not_sent_makes_no_commit(published):
    line = '{"key": "%s", "value": %s}'
    lines = [
        line % ("header", '{"summary": "x"}'),
        line % ("file", '{"path": "a", "content": "YQ==", "encoding": "base64"}'),
        line % ("lfsFile", f'{{"path": "b", "algo": "sha256", "oid": "{"0" * 64}", "size": 1}}'),
    ]
    headers = {"Authorization": f"Bearer {os.environ['HF_TOKEN']}"}
    answer = get_session().post(
        f"{published.url}/api/models/org/tiny/commit/main", content="\n".join(lines), headers=headers
    )
    assert answer.status_code == 400 and "not uploaded" in answer.json()["error"]
    assert len(published.repository("model", "org/tiny").commits) == 2
    oid = "0" * 64
    put = get_session().put(f"{published.url}/lfs/models/org/tiny/{oid}", content=b"x")
    assert put.status_code == 403  # nobody was told to send it


def test_cards(hub):
    HfApi().create_repo("org/tiny")
    ModelCard(CARD.decode()).push_to_hub("org/tiny")
    assert ModelCard.load("org/tiny").data.license == "apache-2.0"
    for wrong in (b"---\na: [\n---\n", b"---\nmodel-index:\n- name: x\n  results: [{}]\n---\n"):
        with pytest.raises(ValueError, match="Invalid metadata"):
            commit(HfApi(), add("README.md", wrong))


def test_a_model_is_pushed_and_pulled(hub):
    model = MAEForPreTraining(TINY["mae"]())
    model.push_to_hub("org/mae")
    pulled = MAEForPreTraining.from_pretrained("org/mae")
    for name, tensor in model.state_dict().items():
        assert tensor.equal(pulled.state_dict()[name]), name
    assert hub.unknown == []


def test_what_it_does_not_know_is_noted(hub):
    assert get_session().get(f"{hub.url}/api/collections").status_code == 404
    assert hub.unknown == [("GET", "/api/collections")]


def test_faults_end(published):
    published.fail("GET", "whoami", times=math.inf)
    published.heal()
    assert HfApi().whoami()["name"] == "ana"
    published.reset()
    with pytest.raises(HfHubHTTPError):
        HfApi().whoami()
