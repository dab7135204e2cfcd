"""A real server of Google Cloud Storage's interface, fake-gcs-server, as a process of the tests.

It asks nobody for a key, so a gate in front of it does, in Google's words: an access token, or a token that the
service account of `service_account_key` has signed, except for a bucket called `public`. Without Go and without a
cached program no test can start it, and the error says so.
"""

import base64
import http.client
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from local_cluster import binaries, ports
from server_process import server_process

WRITER, READER = "tests-writer-token", "tests-reader-token"
PUBLIC = "public"
ACCOUNT = "tests@project.iam.gserviceaccount.com"


@cache
def _private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def service_account_key() -> str:
    """The key of a service account that the gate knows, as Google hands it out."""
    pem = _private_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": "http://127.0.0.1:9/token",
        }
    )


@dataclass(frozen=True)
class GcsServer:
    """A running server."""

    url: str
    """Of the gate."""
    inner: str
    """Of the server itself, which lets everybody in."""

    @property
    def environment(self) -> dict[str, str]:
        """What a job's Secret would hold."""
        return {"STORAGE_EMULATOR_HOST": self.url, "GOOGLE_OAUTH_ACCESS_TOKEN": WRITER}

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        self._call("/storage/v1/b?project=project", json.dumps({"name": name}).encode())

    def put(self, key: str, content: bytes) -> None:
        """Store an object; `key` begins with its bucket."""
        bucket, _, name = key.partition("/")
        self._call(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}", content)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every object of a bucket, by its name."""
        listed = json.loads(self._call(f"/storage/v1/b/{bucket}/o"))
        names = [item["name"] for item in listed.get("items") or []]
        return {name: self._call(f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media") for name in names}

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        method = "GET" if body is None else "POST"
        request = urllib.request.Request(self.inner + path, data=body, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - loopback
            content: bytes = answer.read()
            return content


@contextmanager
def gcs_server(folder: Path, *buckets: str) -> Iterator[GcsServer]:
    """A server with `buckets`, whose log lies in `folder`; it ends with the block."""
    (port,) = ports.free(1)
    with _gate(port) as url:
        command = [
            str(binaries.path("fake-gcs-server")),
            "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory", "-external-url", url,
        ]  # fmt: skip
        with server_process(command, port, folder, health="/_internal/healthcheck") as inner:
            server = GcsServer(url, inner)
            for bucket in buckets:
                server.make_bucket(bucket)
            yield server


@contextmanager
def _gate(port: int) -> Iterator[str]:
    gate = ThreadingHTTPServer(("127.0.0.1", 0), type("Gate", (_Gate,), {"port": port}))
    thread = threading.Thread(target=gate.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{gate.server_port}"
    finally:
        gate.shutdown()
        gate.server_close()
        thread.join()


class _Gate(BaseHTTPRequestHandler):
    """Passes a request on when its token allows it."""

    protocol_version = "HTTP/1.1"
    port = 0

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if refusal := self._refusal():
            self._answer(refusal[0], {"Content-Type": "application/json"}, _error(*refusal))
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(self.command, self.path, body, {**self.headers})
        answer = connection.getresponse()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        self._answer(answer.status, headers, answer.read())
        connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _pass  # noqa: N815 - names of http.server

    def _refusal(self) -> tuple[int, str] | None:
        given = self.headers.get("Authorization") or ""
        if self.command == "GET" and f"/b/{PUBLIC}/" in self.path:
            return None
        if not given:
            return 401, "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."
        token = given.removeprefix("Bearer ")
        if token == READER and self.command not in ("GET", "HEAD"):
            return 403, f"{ACCOUNT} does not have storage.objects.create access to the Google Cloud Storage object."
        return None if token in (WRITER, READER) or _signed(token) else (401, "Invalid Credentials")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the server behind the gate keeps a log."""


_HOP = ("connection", "content-length", "transfer-encoding", "date", "server")


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message, "errors": [{"message": message}]}}).encode()


def _signed(token: str) -> bool:
    """Whether `token` is a JSON web token of the service account."""
    head, _, signature = token.rpartition(".")
    try:
        _private_key().public_key().verify(
            base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)),
            head.encode(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except (InvalidSignature, ValueError):
        return False
    return True
