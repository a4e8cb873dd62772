"""A small stand-in of the Hugging Face hub's HTTP API, for the calls that its client makes to upload and to download.

Repositories live in memory. Every request is recorded; a transfer into the storage or a commit can be made to fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

SIGNATURE = "signature-of-the-storage"


@dataclass(frozen=True)
class Request:
    """What came in. `authorization` is the header as it was sent."""

    method: str
    path: str
    authorization: str | None


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """Git's name of the content."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def listed(self) -> dict[str, Any]:
        size = len(self.content)
        lfs = {"lfs": {"oid": self.sha256, "size": size, "pointerSize": 130}} if self.is_lfs else {}
        return {"type": "file", "oid": self.blob_id, "size": size, **lfs}


@dataclass
class Repo:
    """Commits by id, oldest first, and the branches' names for them."""

    is_private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> content that has arrived in the storage."""

    def commit(self, branch: str, files: dict[str, File]) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What can be seen at a revision, without the hub's own file."""
        commit = self.commits[self.branches[revision]]
        return {path: file.content for path, file in commit.items() if path != ".gitattributes"}


class Hub:
    """One user, `ann`, with one token.

    with Hub(token) as hub: ... hub.endpoint ... hub.repos["models/ann/name"]
    """

    def __init__(self, token: str, lfs: str = r"\.safetensors$|^tokenizer\.json$") -> None:
        self.token = token
        self.lfs = re.compile(lfs)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.put_fault: Callable[[int], str] = lambda number: ""
        """Number of a transfer, from 0 -> "", "refuse" (403), "drop" (the connection) or "hold" (until `release`)."""
        self.commit_fault = ""
        """"drop": the connection breaks before a commit; "lose": after it; "spoil": the commit holds other bytes."""
        self.held, self.release = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def transfers(self) -> list[str]:
        """The sha256 of every content that was sent to the storage, in order, arrived or not."""
        return [r.path.rpartition("/")[2].partition("?")[0] for r in self.requests if r.method == "PUT"]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""

    def _serve(self) -> None:
        body = self._body()
        with self.hub.lock:
            number = len(self.hub.transfers())
            self.hub.requests.append(Request(self.command, self.path, self.headers["Authorization"]))
        path = urlsplit(self.path).path
        for method, pattern, answer in ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                groups = {name: unquote(value or "") for name, value in match.groupdict().items()}
                answer(self, body, number=number, **groups)
                return
        self._json(404, {"error": "Not found"})

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _json(self, status: int, value: Any, **headers: str) -> None:
        if status >= 400 and "error" in value:
            headers["X-Error-Message"] = value["error"]
        self._send(status, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _drop(self) -> None:
        self.close_connection = True

    def _is_ann(self) -> bool:
        """Whether the token is right; else the refusal has been sent."""
        if self.headers["Authorization"] == f"Bearer {self.hub.token}":
            return True
        self._json(401, {"error": "Invalid username or password."})
        return False

    def _repo(self, kind: str, repo: str) -> Repo | None:
        """A repository that the sender may see, else the refusal has been sent."""
        found = self.hub.repos.get(f"{kind or 'models'}/{repo}")
        if found is None or (found.is_private and self.headers["Authorization"] != f"Bearer {self.hub.token}"):
            self._json(404, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _commit(self, kind: str, repo: str, revision: str) -> tuple[Repo, str] | None:
        if (found := self._repo(kind, repo)) is None:
            return None
        if (oid := found.find(revision or "main")) is None:
            self._json(404, {"error": f"Invalid rev id: {revision}"}, **{"X-Error-Code": "RevisionNotFound"})
            return None
        return found, oid

    def create(self, body: bytes, **_: Any) -> None:
        wanted = json.loads(body)
        if not self._is_ann():
            return
        if wanted["organization"] != "ann":
            self._json(403, {"error": f"You don't have the rights to create a model under {wanted['organization']}"})
            return
        kind, repo = f"{wanted.get('type', 'model')}s", f"ann/{wanted['name']}"
        answer = {"url": f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{repo}"}
        if f"{kind}/{repo}" in self.hub.repos:
            self._json(409, {**answer, "error": "You already created this repo"})
            return
        new = self.hub.repos[f"{kind}/{repo}"] = Repo(is_private=wanted.get("visibility") == "private")
        new.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", is_lfs=False)})
        self._json(200, answer)

    def branch(self, body: bytes, kind: str, repo: str, revision: str, **_: Any) -> None:
        if not self._is_ann() or (found := self._repo(kind, repo)) is None:
            return
        if revision in found.branches:
            self._json(409, {"error": "Reference already exists"})
            return
        found.branches[revision] = found.branches["main"]
        self._json(201, {})

    def validate(self, body: bytes, **_: Any) -> None:
        """The front matter has to be a mapping, as the hub asks."""
        matter = json.loads(body)["content"].removeprefix("---\n").partition("\n---\n")[0]
        try:
            errors = [] if isinstance(yaml.safe_load(matter), dict) else [{"message": "it is no mapping"}]
        except yaml.YAMLError as e:
            errors = [{"message": str(e)}]
        self._json(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, kind: str, repo: str, revision: str, **_: Any) -> None:
        if not self._is_ann() or (found := self._commit(kind, repo, revision)) is None:
            return
        there, answers = found[0].commits[found[1]], []
        for path in (file["path"] for file in json.loads(body)["files"]):
            is_lfs = self.hub.lfs.search(path) is not None
            known = {"oid": there[path].sha256 if is_lfs else there[path].blob_id} if path in there else {}
            answers.append({"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, **known})
        self._json(200, {"files": answers})

    def batch(self, body: bytes, kind: str, repo: str, **_: Any) -> None:
        """Says of each content where to send it, or, with no action, that it is there."""
        if not self._is_ann() or (found := self._repo(kind, repo)) is None:
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            where = f"{self.hub.endpoint}/storage/{kind or 'models'}/{repo}/{wanted['oid']}?{SIGNATURE}"
            verify = {"href": f"{self.hub.endpoint}/verify/{kind or 'models'}/{repo}"}
            missing = wanted["oid"] not in found.stored
            objects.append(
                {**wanted, **({"actions": {"upload": {"href": where}, "verify": verify}} if missing else {})}
            )
        self._json(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, kind: str, repo: str, oid: str, number: int, **_: Any) -> None:
        fault = self.hub.put_fault(number)
        if fault == "hold":
            self.hub.held.set()
            self.hub.release.wait()
        if fault in ("hold", "drop"):
            self._drop()
        elif fault == "refuse" or hashlib.sha256(body).hexdigest() != oid:
            self._json(403, {"error": "Request has expired"})
        else:
            self.hub.repos[f"{kind}/{repo}"].stored[oid] = body
            self._send(200, b"")

    def verify(self, body: bytes, kind: str, repo: str, **_: Any) -> None:
        is_there = json.loads(body)["oid"] in self.hub.repos[f"{kind}/{repo}"].stored
        self._json(200 if is_there else 404, {})

    def commit(self, body: bytes, kind: str, repo: str, revision: str, **_: Any) -> None:
        if not self._is_ann() or (found := self._commit(kind, repo, revision)) is None:
            return
        if self.hub.commit_fault == "drop":
            self._drop()
            return
        files = dict(found[0].commits[found[1]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), is_lfs=False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = File(found[0].stored[value["oid"]], is_lfs=True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        if self.hub.commit_fault == "spoil":
            files["config.json"] = File(b"{}", is_lfs=False)
        oid = found[0].commit(revision, files)
        if self.hub.commit_fault == "lose":
            self._drop()
            return
        self._json(200, {"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}", "commitOid": oid})

    def info(self, body: bytes, kind: str, repo: str, revision: str = "", **_: Any) -> None:
        if (found := self._commit(kind, repo, revision)) is None:
            return
        siblings = [{"rfilename": path} for path in found[0].commits[found[1]]]
        self._json(200, {"id": repo, "sha": found[1], "private": found[0].is_private, "siblings": siblings, "tags": []})

    def tree(self, body: bytes, kind: str, repo: str, revision: str, **_: Any) -> None:
        if (found := self._commit(kind, repo, revision)) is not None:
            files = found[0].commits[found[1]]
            self._json(200, [{**file.listed, "path": path} for path, file in files.items()])

    def paths(self, body: bytes, kind: str, repo: str, revision: str, **_: Any) -> None:
        if (found := self._commit(kind, repo, revision)) is not None:
            files, wanted = found[0].commits[found[1]], json.loads(body)["paths"]
            self._json(200, [{**files[path].listed, "path": path} for path in wanted if path in files])

    def resolve(self, body: bytes, kind: str, repo: str, revision: str, path: str, **_: Any) -> None:
        if (found := self._commit(kind, repo, revision)) is None:
            return
        if (file := found[0].commits[found[1]].get(path)) is None:
            self._json(404, {"error": "Entry not found"}, **{"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{file.sha256 if file.is_lfs else file.blob_id}"'
        self._send(200, file.content, **{"ETag": etag, "X-Repo-Commit": found[1]})


API = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
FILES = r"/((?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", API + r"/branch/(?P<revision>[^/]+)", Handler.branch),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", FILES + r"\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/storage/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)", Handler.put),
    ("POST", r"/verify/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)", Handler.verify),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", Handler.commit),
    ("GET", API, Handler.info),
    ("GET", API + r"/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)", Handler.tree),
    ("POST", API + r"/paths-info/(?P<revision>[^/]+)", Handler.paths),
    ("GET HEAD", FILES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]
