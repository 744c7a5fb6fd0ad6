"""A Hub on loopback: the Hugging Face Hub's HTTP interface, in memory, for tests with unmodified clients.

It serves what `huggingface_hub`, `transformers`, `timm` and `datasets` ask for between creating a repository and
loading from it: accounts, repositories, the upload of files (regular and LFS, no Xet), commits, branches, tags,
listings and downloads with ranges, with the Hub's errors. What it does not know it answers with 404 and notes in
`HubServer.unknown`.

    hub = HubServer()
    hub.start()                                              # then HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1
    hub.add_token("hf_abc", user="ana", orgs=("org",))
    hub.fail("POST", "/commit/", status=500, times=2)
    hub.repository("model", "org/name").files("v1")["README.md"]

Written from the client's source, huggingface_hub 2.4. PyYAML reads the cards, the rest is the standard library.
"""

import base64
import contextlib
import hashlib
import json
import math
import re
import secrets
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import yaml

LFS_ENDINGS = (
    "7z|arrow|bin|bz2|ckpt|gif|gz|h5|ico|jpe?g|mp4|np[yz]|onnx|parquet|pdf|pickle|pkl|png|pth?|safetensors|tar|tgz|tiff|"
    "webp|xz|zip|zst"
)
LFS_SIZE = 10_000_000  # bytes from which any file goes to LFS
GITATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.(git|ipynb)$)[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
REF = re.compile(r"(?!.*(\.\.|//|@\{|\.lock$))[^\s~^:?*\[\\\x00-\x1f/.-][^\s~^:?*\[\\\x00-\x1f]*(?<![/.])")


class HubError(Exception):
    """An answer that is an error.

    Attributes:
        status: the HTTP status.
        code: the X-Error-Code from which the client chooses its exception, None where the Hub sends none.
        body: what the JSON has beside `error`.
    """

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}, **body):
        super().__init__(message)
        self.status, self.code, self.headers, self.body = status, code, headers, body


@dataclass(frozen=True)
class File:
    """One version of a file: in git itself, or in LFS with a pointer in git."""

    content: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    description: str
    user: str
    date: str
    tree: Mapping[str, File]


@dataclass(frozen=True)
class Token:
    """A user's access token.

    `scopes` are a fine-grained token's: permissions ("repo.write", "repo.content.read") by user, organisation or
    repository id.
    """

    role: str
    user: str
    orgs: Sequence[str]
    read_orgs: Sequence[str]
    scopes: Mapping[str, Sequence[str]]

    def may(self, permission: str, repo_id: str) -> bool:
        """Whether it gives a right, "read" or "write", in a repository (existing or not)."""
        namespace = repo_id.split("/")[0]
        if self.role == "fineGrained":
            wanted = {"repo.write"} if permission == "write" else {"repo.write", "repo.content.read"}
            return any(wanted & set(self.scopes.get(entity, ())) for entity in (namespace, repo_id))
        if permission == "read":
            return namespace in (self.user, *self.orgs, *self.read_orgs)
        return self.role == "write" and namespace in (self.user, *self.orgs)


@dataclass
class Fault:
    method: str
    path: re.Pattern
    times: float
    status: int | None  # None: the connection is cut
    after: bool = False


@dataclass
class Repository:
    """A repository as the server has it.

    Attributes:
        kind: "model", "dataset" or "space".
        branches: the last commit of each branch.
        tags: the commit of each tag.
        commits: by commit id, oldest first.
        objects: LFS objects by SHA-256, also those that no commit refers to (yet).
    """

    kind: str
    id: str
    private: bool = False
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path, at a branch, tag or commit."""
        return {path: file.content for path, file in self.at(revision).tree.items()}

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        found = [commit for commit in self.commits.values() if commit.sha.startswith(sha) and len(sha) >= 7]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def commit(
        self,
        changes: Mapping[str, bytes | File | None],
        title: str = "A commit",
        *,
        description: str = "",
        user: str = "ana",
        branch: str = "main",
    ) -> Commit:
        """Add files (None: delete) to a branch in one commit, as somebody else may do while a test runs."""
        parent = self.at(branch) if self.branches else None
        tree = dict(parent.tree) if parent else {}
        for path, content in changes.items():
            if content is None:
                del tree[path]
            else:
                tree[path] = content if isinstance(content, File) else File(content, is_lfs=goes_to_lfs(path, content))
        # Random, so that no client's cache of an earlier test can be mistaken for this commit.
        commit = Commit(
            secrets.token_hex(20), parent and parent.sha, title, description, user, now(), dict(sorted(tree.items()))
        )
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        self.objects.update({file.sha256: file.content for file in tree.values() if file.is_lfs})
        return commit


def goes_to_lfs(path: str, sample: bytes, size: int | None = None) -> bool:
    is_large = (len(sample) if size is None else size) >= LFS_SIZE
    return is_large or b"\0" in sample or re.search(rf"\.({LFS_ENDINGS})$", path) is not None


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class HubServer:
    """The server and all it holds.

    Attributes:
        url: address, for HF_ENDPOINT; the same after `stop` and `start`.
        requests: method and (unquoted) path of all requests in order of arrival, failed ones too; but not of the
            client's question for agent harnesses, which each process asks once, at any time.
        unknown: those to which it knows no answer.
        sent: bytes of the answers' bodies by path.
        errors: tracebacks of its own failures; the client was answered 500.
    """

    def __init__(self):
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._port = 0
        self.reset()

    def reset(self) -> None:
        """Forget repositories, tokens, faults and requests."""
        with self._lock:
            self.requests: list[tuple[str, str]] = []
            self.unknown: list[tuple[str, str]] = []
            self.sent: Counter[str] = Counter()
            self.errors: list[str] = []
            self._repositories: dict[tuple[str, str], Repository] = {}
            self._tokens: dict[str, Token] = {}
            self._faults: list[Fault] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen: on a free port the first time, on the same one later."""
        if self._server is not None:
            return
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.hub = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True, name="hub").start()

    def stop(self) -> None:
        """Stop listening and close all connections: clients are refused until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def add_token(
        self,
        token: str,
        role: str = "write",
        user: str = "ana",
        orgs: Sequence[str] = (),
        read_orgs: Sequence[str] = (),
        scopes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Make a token valid: role "write", "read" or "fineGrained" (with `scopes`, see `Token`)."""
        with self._lock:
            self._tokens[token] = Token(role, user, orgs, read_orgs, scopes or {})

    def fail(self, method: str, path: str, status: int = 500, times: float = 1) -> None:
        """Answer the next `times` (math.inf: all) requests with an error whose path the expression is found in.

        Of several faults that match a request the first declared happens, until its times are over.
        """
        with self._lock:
            self._faults.append(Fault(method, re.compile(path), times, status))

    def cut(self, method: str, path: str, times: float = 1, after: bool = False) -> None:
        """Close the connection in the middle of the request's body, or of the answer where it has none.

        With `after`, the request is carried out and its answer is lost.
        """
        with self._lock:
            self._faults.append(Fault(method, re.compile(path), times, None, after))

    def heal(self) -> None:
        """Forget what was to fail."""
        with self._lock:
            self._faults.clear()

    def repository(self, kind: str, repo_id: str) -> Repository:
        """A repository.

        Raises:
            KeyError: there is none.
        """
        return self._repositories[kind, repo_id]

    def add_repository(self, kind: str, repo_id: str, private: bool = False, sdk: str | None = None) -> Repository:
        """Make a repository with the Hub's first commit."""
        repository = Repository(kind, repo_id, private, sdk)
        repository.commit({".gitattributes": GITATTRIBUTES}, "initial commit")
        self._repositories[kind, repo_id] = repository
        return repository

    def _arrived(self, method: str, path: str) -> Fault | None:
        with self._lock:
            if path != "/api/agent-harnesses":
                self.requests.append((method, path))
            for fault in self._faults:
                if fault.method == method and fault.times > 0 and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def _answer(self, request: "Request") -> "Answer":
        """What the Hub answers, errors included."""
        try:
            with self._lock:
                for method, pattern, respond in ROUTES:
                    match = pattern.fullmatch(request.path)
                    if match and request.method in (method, method.replace("GET", "HEAD")):
                        parts = {name: unquote(value) for name, value in match.groupdict().items() if value}
                        parts["kind"] = parts.get("kind", "models").removesuffix("s")
                        return respond(_Call(self, request, **parts))
                self.unknown.append((request.method, unquote(request.path)))
                raise HubError(404, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            headers = {"X-Error-Message": str(error).splitlines()[0], **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            return as_json({"error": str(error), **error.body}, error.status, headers)
        except Exception:
            self.errors.append(traceback.format_exc())
            return as_json({"error": "A defect of tests/hub_server.py, see hub.errors"}, 500)


@dataclass
class Request:
    method: str
    path: str  # still quoted
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise HubError(400, f"The body is not JSON: {error}") from error


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def as_json(value: object, status: int = 200, headers: Mapping[str, str] = {}) -> Answer:
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **headers}, json.dumps(value).encode())


# ---------------------------------------------------------------------------------------------- who may do what


@dataclass
class _Call:
    """A request and what its path names."""

    hub: HubServer
    request: Request
    kind: str
    id: str = ""
    revision: str = "main"
    path: str = ""
    oid: str = ""

    @property
    def token(self) -> Token | None:
        """Of whoever asks; None for nobody."""
        sent = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent and sent not in self.hub._tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub._tokens.get(sent)

    @property
    def readable(self) -> Repository:
        """The repository named; private ones look missing to others."""
        token = self.token
        repository = self.hub._repositories.get((self.kind, self.id))
        if repository and (not repository.private or (token and token.may("read", self.id))):
            return repository
        # The Hub sends no code with this 401, the client goes by the https address. Over http it needs one.
        status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
        raise HubError(status, message, "RepoNotFound")

    @property
    def writable(self) -> Repository:
        repository = self.readable
        if self.token is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if not self.token.may("write", self.id):
            raise HubError(403, f"You don't have the required permissions to write to {self.kind} {self.id}")
        return repository


def require_token(call: _Call) -> Token:
    if call.token is None:
        raise HubError(401, "Invalid username or password.")
    return call.token


def list_harnesses(call: _Call) -> Answer:
    """The coding agents that the client knows itself to be called by: none."""
    return as_json({"standardEnvVars": [], "harnesses": {}})


def whoami(call: _Call) -> Answer:
    token = require_token(call)
    access = {"displayName": "a token", "role": token.role, "createdAt": now()}
    if token.role == "fineGrained":
        kinds = {name: "org" for name in (*token.orgs, *token.read_orgs)} | {token.user: "user"}
        access["fineGrained"] = {
            "canReadGatedRepos": False,
            "global": [],
            "scoped": [
                {
                    "entity": {"_id": "0", "type": kinds.get(name, "model"), "name": name},
                    "permissions": list(permissions),
                }
                for name, permissions in token.scopes.items()
            ],
        }
    orgs = {name: "read" for name in token.read_orgs} | {name: "write" for name in token.orgs}
    return as_json(
        {
            "type": "user",
            "id": "0",
            "name": token.user,
            "fullname": token.user.title(),
            "isPro": False,
            "orgs": [
                {"type": "org", "id": name, "name": name, "fullname": name.title(), "roleInOrg": role}
                for name, role in orgs.items()
            ],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def check_access(call: _Call) -> Answer:
    _ = call.readable
    return as_json({})


def check_write_access(call: _Call) -> Answer:
    _ = call.writable
    return as_json({})


# ------------------------------------------------------------------------------------------------- repositories


def repository_url(hub: HubServer, kind: str, repo_id: str) -> str:
    return f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"


def create_repository(call: _Call) -> Answer:
    token, wanted = require_token(call), call.request.json()
    kind, name = wanted.get("type", "model"), wanted["name"]
    namespace = wanted.get("organization") or token.user
    repo_id = f"{namespace}/{name}"
    if kind not in ("model", "dataset", "space"):
        raise HubError(400, f'"type" must be one of [model, dataset, space], not {kind}')
    if not NAME.fullmatch(name):
        raise HubError(400, f'Invalid repo name: "{name}" must match the regular expression {NAME.pattern}')
    if kind == "space" and wanted.get("sdk") not in ("gradio", "docker", "static", "streamlit"):
        raise HubError(400, '"sdk" must be one of [gradio, docker, static, streamlit]')
    if not token.may("write", repo_id):
        raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    url = repository_url(call.hub, kind, repo_id)
    if (kind, repo_id) in call.hub._repositories:
        raise HubError(409, f"You already created this {kind} repo: {repo_id}", url=url)
    private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
    call.hub.add_repository(kind, repo_id, private=private, sdk=wanted.get("sdk"))
    return as_json({"url": url, "name": repo_id, "id": repo_id})


def delete_repository(call: _Call) -> Answer:
    token, named = require_token(call), call.request.json()
    call.kind = named.get("type", "model")
    call.id = f"{named.get('organization') or token.user}/{named['name']}"
    del call.hub._repositories[call.kind, call.writable.id]
    return as_json({})


def change_settings(call: _Call) -> Answer:
    repository, settings = call.writable, call.request.json()
    if "private" in settings:
        repository.private = bool(settings["private"])
    if "visibility" in settings:
        repository.private = settings["visibility"] == "private"
    return as_json({"private": repository.private, "gated": settings.get("gated", False)})


def read_card(tree: Mapping[str, File]) -> dict:
    """A README's metadata, empty where it has none."""
    text = tree["README.md"].content.decode("utf-8-sig") if "README.md" in tree else ""
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", text, re.DOTALL)
    metadata = yaml.safe_load(block[1]) if block else None
    return metadata if isinstance(metadata, dict) else {}


def find_card_errors(kind: str, text: str) -> tuple[list[str], dict]:
    """What the Hub has against a README (some of its rules), and the metadata."""
    try:
        card = read_card({"README.md": File(text.encode(), is_lfs=False)})
    except yaml.YAMLError as error:
        return [f"YAML metadata error: {error}"], {}
    # Through JSON as on its way to a page: a date or a set is no metadata.
    try:
        json.dumps(card)
    except TypeError as error:
        return [f"YAML metadata error: {error}"], {}
    errors = []
    for key in ("tags", "datasets", "metrics", "language"):
        values = card.get(key, [])
        if not all(isinstance(value, str) for value in ([values] if isinstance(values, str) else values)):
            errors.append(f'"{key}" must be an array of strings')
    for entry in card.get("model-index", []):
        if not isinstance(entry.get("name"), str) or not isinstance(entry.get("results"), list):
            errors.append('"model-index" must have a name and results')
            continue
        for result in entry["results"]:
            wanted = [("task", "type"), ("dataset", "name"), ("dataset", "type")]
            errors += [f'"model-index.results.{a}.{b}" is required' for a, b in wanted if not result.get(a, {}).get(b)]
            if not all("type" in metric and "value" in metric for metric in result.get("metrics", [{}])):
                errors.append('"model-index.results.metrics" must have type and value')
    if kind == "space":
        colours = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
        errors += [
            f'"{key}" must be one of [{", ".join(colours)}]'
            for key in ("colorFrom", "colorTo")
            if card.get(key, "red") not in colours
        ]
        if len(card.get("short_description", "")) > 60:
            errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors, card


def validate_yaml(call: _Call) -> Answer:
    sent = call.request.json()
    errors, card = find_card_errors(sent["repoType"], sent["content"])
    warnings = [] if errors or card else [{"message": "empty or missing yaml metadata in repo card"}]
    answer = {"errors": [{"message": error} for error in errors], "warnings": warnings}
    return as_json({"error": "Invalid metadata", **answer} if errors else answer, 400 if errors else 200)


def info(call: _Call) -> Answer:
    repository = call.readable
    commit, card = repository.at(call.revision), {}
    with contextlib.suppress(yaml.YAMLError):  # the Hub shows such a repository without metadata
        card = read_card(commit.tree)
    siblings = []
    for path, file in commit.tree.items():
        sibling = {"rfilename": path}
        if call.request.query.get("blobs", ["false"])[0].lower() == "true":
            sibling |= {"size": len(file.content), "blobId": file.blob_id}
            if file.is_lfs:
                sibling["lfs"] = {
                    "sha256": file.sha256,
                    "size": len(file.content),
                    "pointerSize": len(file.pointer),
                }
        siblings.append(sibling)
    tags = [*card.get("tags", []), *(card[key] for key in ("library_name", "pipeline_tag") if key in card)]
    if "license" in card:
        tags.append(f"license:{card['license']}")
    answer = {
        "_id": "0",
        "id": repository.id,
        "author": repository.id.split("/")[0],
        "sha": commit.sha,
        "createdAt": next(iter(repository.commits.values())).date,
        "lastModified": commit.date,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "usedStorage": sum(len(content) for content in repository.objects.values()),
        "tags": list(dict.fromkeys(tags)),
        "cardData": card,
        "siblings": siblings,
    }
    if repository.kind == "model":
        answer |= {"modelId": repository.id}
        answer |= {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
    if repository.kind == "space":
        answer |= {"sdk": repository.sdk, "subdomain": repository.id.replace("/", "-")}
    expand = call.request.query.get("expand") or call.request.query.get("expand[]")
    return as_json({key: answer[key] for key in ("_id", "id", *(expand or answer)) if key in answer})


def list_refs(call: _Call) -> Answer:
    repository = call.readable

    def refs(folder: str, named: Mapping[str, str]) -> list[dict]:
        return [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha} for name, sha in named.items()]

    branches, tags = refs("heads", repository.branches), refs("tags", repository.tags)
    return as_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def list_commits(call: _Call) -> Answer:
    repository, listed = call.readable, []
    sha = repository.at(call.revision).sha
    while sha is not None:
        commit = repository.commits[sha]
        listed.append(
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.description,
                "date": commit.date,
                "authors": [{"user": commit.user}],
            }
        )
        sha = commit.parent
    return as_json(listed)


def new_ref(name: str, existing: Mapping[str, str]) -> str:
    if not REF.fullmatch(name):
        raise HubError(400, f"Invalid reference name: {name}")
    if name in existing:
        raise HubError(409, f"Reference {name} already exists")
    return name


def create_tag(call: _Call) -> Answer:
    repository = call.writable
    tag = new_ref(call.request.json()["tag"], repository.tags)
    repository.tags[tag] = repository.at(call.revision).sha
    return as_json({})


def delete_tag(call: _Call) -> Answer:
    if call.writable.tags.pop(call.revision, None) is None:
        raise HubError(404, f"Tag {call.revision} not found", "RevisionNotFound")
    return as_json({})


def create_branch(call: _Call) -> Answer:
    repository = call.writable
    branch = new_ref(call.revision, repository.branches)
    repository.branches[branch] = repository.at(call.request.json().get("startingPoint", "main")).sha
    return as_json({})


def delete_branch(call: _Call) -> Answer:
    if call.revision == "main":
        raise HubError(403, "Cannot delete the default branch")
    if call.writable.branches.pop(call.revision, None) is None:
        raise HubError(404, f"Branch {call.revision} not found", "RevisionNotFound")
    return as_json({})


# ------------------------------------------------------------------------------------------------------- upload


def preupload(call: _Call) -> Answer:
    """How each file is to be sent; the id of the present one, so that unchanged files are left out."""
    tree = call.writable.at(call.revision).tree
    files = []
    for file in call.request.json()["files"]:
        lfs = goes_to_lfs(file["path"], base64.b64decode(file["sample"]), file["size"])
        answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if file["path"] in tree:
            answer["oid"] = tree[file["path"]].etag
        files.append(answer)
    return as_json({"files": files})


def lfs_batch(call: _Call) -> Answer:
    """Where to put each object; no actions for those already there."""
    repository, objects = call.writable, []
    for wanted in call.request.json()["objects"]:
        oid = wanted["oid"]
        answer = {"oid": oid, "size": wanted["size"]}
        if oid not in repository.objects:
            repository.promised.add(oid)
            upload = f"{call.hub.url}/lfs/{call.kind}s/{call.id}/{oid}"
            verify = f"{repository_url(call.hub, call.kind, call.id)}.git/info/lfs/objects/verify"
            answer |= {"authenticated": True, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}
        objects.append(answer)
    return as_json({"transfer": "basic", "objects": objects})


def put_object(call: _Call) -> Answer:
    """Take an object. As with a signed address of a storage, who was told it needs no token."""
    repository = call.hub._repositories.get((call.kind, call.id))
    if repository is None or call.oid not in repository.promised:
        raise HubError(403, "This address was not given out")
    if hashlib.sha256(call.request.body).hexdigest() != call.oid:
        raise HubError(400, "The SHA-256 of the bytes differs from the object's id")
    repository.objects[call.oid] = call.request.body
    return Answer(200, {"ETag": f'"{call.oid}"'}, b"")


def verify_object(call: _Call) -> Answer:
    named, objects = call.request.json(), call.writable.objects
    if len(objects.get(named["oid"], b"")) != named["size"]:
        raise HubError(404, f"Object {named['oid']} of size {named['size']} not found")
    return as_json({})


def commit(call: _Call) -> Answer:
    repository = call.writable
    if "create_pr" in call.request.query:
        raise HubError(400, "tests/hub_server.py knows no pull requests")
    try:
        lines = [json.loads(line) for line in call.request.body.splitlines() if line.strip()]
    except ValueError as error:
        raise HubError(400, f"The body is not lines of JSON: {error}") from error
    head = repository.at(call.revision)
    if call.revision not in repository.branches:
        raise HubError(404, f"Invalid rev id: {call.revision} is not a branch", "RevisionNotFound")
    header = lines[0]["value"]
    if not head.sha.startswith(header.get("parentCommit", head.sha)):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    changes: dict[str, File | None] = {}
    for line in lines[1:]:
        path = line["value"]["path"]
        if not path or any(part in ("", ".", "..", ".git") for part in path.rstrip("/").split("/")):
            raise HubError(400, f"Invalid path: {path!r}")
        changes |= read_change(repository, head, line["key"], path, line["value"])
    if (readme := changes.get("README.md")) is not None:
        errors, _ = find_card_errors(call.kind, readme.content.decode())
        if errors:
            raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
    made = repository.commit(
        changes,
        header["summary"],
        description=header.get("description", ""),
        user=call.token.user,
        branch=call.revision,
    )
    url = f"{repository_url(call.hub, call.kind, call.id)}/commit/{made.sha}"
    return as_json({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


def read_change(repository: Repository, head: Commit, key: str, path: str, value: dict) -> dict[str, File | None]:
    if key == "file":
        return {path: File(base64.b64decode(value["content"]), is_lfs=False)}
    if key == "lfsFile":
        if value["oid"] not in repository.objects:
            raise HubError(400, f"LFS pointer of {path} points to an object that was not uploaded: {value['oid']}")
        return {path: File(repository.objects[value["oid"]], is_lfs=True)}
    if key == "deletedFile":
        deleted = [path] if path in head.tree else []
    elif key == "deletedFolder":
        deleted = [other for other in head.tree if other.startswith(path.rstrip("/") + "/")]
    else:
        raise HubError(400, f"Unknown operation: {key}")
    if not deleted:
        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    return dict.fromkeys(deleted)


# ----------------------------------------------------------------------------------------------------- download


def describe_entry(commit: Commit, path: str, expand: bool) -> dict | None:
    """A file or a folder as listings have it; None where there is neither."""
    last = {"lastCommit": {"id": commit.sha, "title": commit.title, "date": commit.date}} if expand else {}
    if path in commit.tree:
        file = commit.tree[path]
        entry = {"type": "file", "oid": file.blob_id, "size": len(file.content), "path": path, **last}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
        return entry
    below = [file.blob_id + name for name, file in commit.tree.items() if name.startswith(f"{path}/")]
    if below:
        oid = hashlib.sha1("".join(below).encode()).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path, **last}
    return None


def list_tree(call: _Call) -> Answer:
    commit = call.readable.at(call.revision)
    recursive, expand = (
        call.request.query.get(name, ["false"])[0].lower() in ("true", "1") for name in ("recursive", "expand")
    )
    folder = call.path.strip("/")
    if folder in commit.tree:
        return as_json([describe_entry(commit, folder, expand)])
    prefix = f"{folder}/" if folder else ""
    paths = dict.fromkeys(
        "/".join(parts[:depth])
        for parts in (path.split("/") for path in commit.tree if path.startswith(prefix))
        for depth in range(prefix.count("/") + 1, len(parts) + 1 if recursive else prefix.count("/") + 2)
    )
    if folder and not paths:
        raise HubError(404, f'{folder} does not exist on "{call.revision}"', "EntryNotFound")
    return as_json([describe_entry(commit, path, expand) for path in paths])


def list_paths(call: _Call) -> Answer:
    commit = call.readable.at(call.revision)
    if "json" in call.request.headers.get("Content-Type", ""):
        wanted = call.request.json()
        paths, expand = wanted["paths"], bool(wanted.get("expand"))
    else:
        wanted = parse_qs(call.request.body.decode())
        paths, expand = wanted.get("paths", []), wanted.get("expand", ["false"])[0].lower() == "true"
    entries = [describe_entry(commit, path.strip("/"), expand) for path in paths]
    return as_json([entry for entry in entries if entry is not None])


def resolve(call: _Call) -> Answer:
    """A file, or the part of it that `Range` asks for."""
    commit = call.readable.at(call.revision)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    file = commit.tree.get(call.path)
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
    if file.is_lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.request.headers.get("Range", ""))
    if asked is None or asked[0] == "bytes=-":
        return Answer(200, headers, file.content)
    size = len(file.content)
    start = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    end = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
    if start >= end:
        raise HubError(416, "Range not satisfiable", headers={**headers, "Content-Range": f"bytes */{size}"})
    return Answer(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}, file.content[start:end])


_KIND, _ID, _REVISION = r"(?P<kind>models|datasets|spaces)", r"(?P<id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_API, _GIT = rf"/api/{_KIND}/{_ID}", r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects"
ROUTES = [
    (method, re.compile(pattern), respond)
    for method, pattern, respond in (
        ("GET", r"/api/agent-harnesses", list_harnesses),
        ("GET", r"/api/whoami-v2", whoami),
        ("POST", r"/api/repos/create", create_repository),
        ("DELETE", r"/api/repos/delete", delete_repository),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("GET", rf"/api/{_KIND}/(?P<id>[^/]+)", info),  # an id without a namespace: none is found
        ("GET", _API, info),
        ("GET", rf"{_API}/revision/{_REVISION}", info),
        ("GET", rf"{_API}/auth-check", check_access),
        ("GET", rf"{_API}/auth-check/write", check_write_access),
        ("PUT", rf"{_API}/settings", change_settings),
        ("GET", rf"{_API}/refs", list_refs),
        ("GET", rf"{_API}/commits/{_REVISION}", list_commits),
        ("POST", rf"{_API}/tag/{_REVISION}", create_tag),
        ("DELETE", rf"{_API}/tag/{_REVISION}", delete_tag),
        ("POST", rf"{_API}/branch/{_REVISION}", create_branch),
        ("DELETE", rf"{_API}/branch/{_REVISION}", delete_branch),
        ("POST", rf"{_API}/preupload/{_REVISION}", preupload),
        ("POST", rf"{_GIT}/batch", lfs_batch),
        ("PUT", rf"/lfs/{_KIND}/{_ID}/(?P<oid>[0-9a-f]{{64}})", put_object),
        ("POST", rf"{_GIT}/verify", verify_object),
        ("POST", rf"{_API}/commit/{_REVISION}", commit),
        ("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", list_tree),
        ("POST", rf"{_API}/paths-info/{_REVISION}", list_paths),
        (
            "GET",
            rf"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+(?:/[^/]+)?)/resolve/{_REVISION}/(?P<path>.+)",
            resolve,
        ),
    )
]


# --------------------------------------------------------------------------------------------------------- HTTP


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    hub: HubServer

    def __init__(self, *args):
        self._connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # closed by the client meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        """A client that hangs up is no failure of the server; anything else is noted."""
        error = traceback.format_exc()
        if not re.search(r"^(ConnectionResetError|BrokenPipeError|ConnectionAbortedError)", error, re.MULTILINE):
            self.hub.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together
    server: _Server

    def serve(self) -> None:
        path, _, query = self.path.partition("?")
        fault = self.server.hub._arrived(self.command, unquote(path))
        cut = fault is not None and fault.status is None
        has_body = "Transfer-Encoding" in self.headers or int(self.headers.get("Content-Length", 0)) > 0
        if cut and has_body and not fault.after:
            self.read_body(share=0.5)
            return self.hang_up()
        body = self.read_body()
        if fault is not None and fault.status is not None:
            answer = as_json({"error": f"The Hub answers {fault.status} in this test"}, fault.status)
        else:
            answer = self.server.hub._answer(Request(self.command, path, parse_qs(query), self.headers, body))
        if cut and fault.after:
            return self.hang_up()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        if cut and (self.command == "HEAD" or len(answer.body) < 2):
            return self.hang_up()
        self.end_headers()
        if self.command != "HEAD":
            part = answer.body[: len(answer.body) // 2] if cut else answer.body
            self.server.hub.sent[unquote(path)] += len(part)
            self.wfile.write(part)
        if cut:
            self.wfile.flush()
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815

    def read_body(self, share: float = 1.0) -> bytes:
        """The request's body, or about the first share of it."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(math.floor(share * int(self.headers.get("Content-Length", 0))))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
            if share < 1:
                return body
        while self.rfile.readline().strip():
            pass
        return body

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args) -> None:
        pass
