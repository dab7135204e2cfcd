"""A Hugging Face hub on loopback: enough of its HTTP interface for the real client to list, resolve and download.

No hub is reachable where the tests run; everything on this side of the wire is the real library.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

KINDS = {"model": "models", "dataset": "datasets"}


@dataclass
class Repository:
    """One repository at one commit."""

    folder: Path
    commit: str
    gated: bool = False

    def files(self) -> list[str]:
        """Paths of all files, sorted."""
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())


@dataclass
class FakeHub:
    """Repositories by kind and name; `requests` keeps method, path and token of each request."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    failing: bool = False
    url: str = ""

    def add(self, kind: str, name: str, folder: Path, commit: str = "a" * 40) -> Repository:
        """Publish `folder` as `name`."""
        self.repositories[KINDS[kind], name] = repository = Repository(folder, commit)
        return repository

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        if self.failing:
            return 503, {}, b"upstream is down"
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[0] == "api":
            return self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        return self._file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _found(self, kind: str, name: str, revision: str | None) -> tuple[Repository | None, str]:
        repository = self.repositories.get((kind, name))
        if repository is None:
            return None, "RepoNotFound"
        if repository.gated:
            return None, "GatedRepo"
        if revision not in (None, "main", repository.commit):
            return None, "RevisionNotFound"
        return repository, ""

    def _api(self, kind: str, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        revision = rest[1] if len(rest) > 1 else None
        repository, error = self._found(kind, name, revision)
        if repository is None:
            return _refusal(error)
        if rest[:1] == ["tree"]:
            return _json(_tree(repository))
        info = {"id": name, "sha": repository.commit, "private": False, "tags": [], "downloads": 0}
        return _json({**info, "siblings": [{"rfilename": file} for file in repository.files()]})

    def _file(self, kind: str, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        repository, error = self._found(kind, name, revision)
        if repository is None:
            return _refusal(error)
        file = repository.folder / path
        if not file.is_file():
            return _refusal("EntryNotFound")
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repository.commit}  # noqa: S324
        return 200, headers, content


def _tree(repository: Repository) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": file, "oid": "0" * 40, "size": (repository.folder / file).stat().st_size}
        for file in repository.files()
    ]


def _json(document: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _refusal(error: str) -> tuple[int, dict[str, str], bytes]:
    status = 403 if error == "GatedRepo" else 404
    return status, {"X-Error-Code": error, "X-Error-Message": error}, b"{}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub; its address is in `url`."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            hub.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = _answer  # noqa: N815 - names of the library

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the library
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
