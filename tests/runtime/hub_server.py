"""A small Hugging Face hub on this machine: as much of its protocol as downloads need, and what it was asked.

A repository is a folder for each commit. Large files are redirected to another host, as the hub does with those in LFS.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

LARGE = 50_000
"""Bytes from which on a file is in LFS."""


@dataclass
class Repository:
    """commits: folder by commit. refs: commit by branch or tag. token: that may read it, anyone where None."""

    commits: dict[str, Path]
    refs: dict[str, str]
    token: str | None = None
    gated: bool = False


@dataclass
class HubServer:
    """repositories: by id. cut: names of files whose transfers break off half-way; stalled: that stop there, until
    `ending`. requests: (method, path) in order; tokens: that came with them. down: answers nothing but 503."""

    url: str = ""
    cdn: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    down: bool = False
    cut: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    ending: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    blobs: dict[str, Path] = field(default_factory=dict)

    def downloaded(self) -> list[str]:
        """Names of the files whose content was asked for, in order, each once however often; forgets all requests."""
        names = [path.split("/", 5)[5] for method, path in self.requests if method == "GET" and "/resolve/" in path]
        names += [path.split("/", 3)[3] for method, path in self.requests if method == "GET" and "/cdn/" in path]
        self.requests.clear()
        return sorted(set(names))


@contextmanager
def serve() -> Iterator[HubServer]:
    """A hub on a free port, until the block ends."""
    hub = HubServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.cdn = f"http://localhost:{server.server_port}/cdn"
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.ending.set()
            server.shutdown()
            thread.join()


@contextmanager
def serve_as_the_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that huggingface-hub takes for the real one."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub client's own retries
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, file_download):  # old ones have a copy
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield server


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests read `requests` instead."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/datasets")
        self.hub.requests.append((self.command, path))
        parts = path.split("/", 5)
        if self.hub.down:
            self._error(503, "")
        elif path.startswith("/cdn/"):
            self._content(self.hub.blobs[parts[2]], path.split("/", 3)[3], {})
        elif len(parts) == 6 and parts[3] == "resolve":
            self._resolve(f"{parts[1]}/{parts[2]}", *parts[4:])
        elif path.startswith("/api/models/"):
            self._tell("/".join(path.split("/")[3:5]), path.split("/")[5:])
        else:
            self._error(404, "NotFound")

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        repository = self.hub.repositories.get(repo)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.tokens.add(token)
        if repository is None or (repository.token and not token):
            self._error(401, "GatedRepo" if repository and repository.gated else "RepoNotFound")
        elif repository.token not in (None, token):
            self._error(403, "GatedRepo" if repository.gated else "")
        elif (commit := repository.refs.get(revision, revision)) not in repository.commits:
            self._error(404, "RevisionNotFound")
        elif not (file := repository.commits[commit] / name).is_file():
            self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._file(file, name, commit)

    def _tell(self, repo: str, asked: list[str]) -> None:
        """What a repository is, or which files it has."""
        repository = self.hub.repositories.get(repo)
        if repository is None:
            self._error(401, "RepoNotFound")
            return
        what, revision = asked or ["revision", "main"]
        if (commit := repository.refs.get(revision, revision)) not in repository.commits:
            self._error(404, "RevisionNotFound")
            return
        files = [path for path in sorted(repository.commits[commit].iterdir()) if path.is_file()]
        if what == "tree":
            self._json([{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files])
        else:
            self._json({"id": repo, "sha": commit, "siblings": [{"rfilename": f.name} for f in files]})

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _file(self, file: Path, name: str, commit: str) -> None:
        data = file.read_bytes()
        if len(data) < LARGE:
            self._content(file, name, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
            return
        sha256 = hashlib.sha256(data).hexdigest()
        self.hub.blobs[sha256] = file
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
        self._head(302, {**linked, "Location": f"{self.hub.cdn}/{sha256}/{name}", "Content-Length": "0"})

    def _content(self, file: Path, name: str, headers: dict[str, str]) -> None:
        data = file.read_bytes()
        asked = self.headers.get("Range")
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(len(data), int(last) + 1) if last else len(data)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._head(206 if asked else 200, {**headers, "Content-Length": str(end - start)})
        if self.command == "GET":
            stalls = name in self.hub.stalled and not last  # but not where a part alone is asked for
            sent = (start + end) // 2 if stalls or name in self.hub.cut else end
            self.wfile.write(data[start:sent])
            if stalls:
                self.hub.ending.wait()
            self.close_connection = sent < end

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._head(status, {**(headers or {}), "X-Error-Code": code, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
