"""A real server of Azure Blob Storage's interface, Azurite, as a process of the tests.

It comes from npm, locked with the digest of each package, into a folder of its own in the cache.
"""

import base64
import hashlib
import hmac
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from local_cluster import locations, ports
from local_cluster.lock import exclusive
from server_process import server_process

LOCK = Path(__file__).parents[1] / "requirements" / "azurite"
PUBLIC = "public"
ACCOUNT = "tests"
KEY = base64.b64encode(b"the key of the account of the tests").decode()
VERSION = "2021-12-02"
START_SECONDS = 180.0


def sas_token(permissions: str = "rwdlac") -> str:
    """A token that lets its bearer do what `permissions` say (r, w, d, l, a, c) with all blobs of the account."""
    asked = {
        "sv": VERSION,
        "ss": "b",
        "srt": "sco",
        "sp": permissions,
        "se": "2099-01-01T00:00:00Z",
        "spr": "https,http",
    }
    text = "\n".join([ACCOUNT, permissions, "b", "sco", "", asked["se"], "", asked["spr"], VERSION, "", ""])
    signature = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    return urlencode({**asked, "sig": base64.b64encode(signature).decode()})


@dataclass(frozen=True)
class AzuriteServer:
    """A running server."""

    url: str
    """Ends with the account."""

    @property
    def environment(self) -> dict[str, str]:
        """What a job's Secret would hold."""
        return {
            "AZURE_STORAGE_ACCOUNT": ACCOUNT,
            "AZURE_STORAGE_KEY": KEY,
            "AZURE_STORAGE_SERVICE_ENDPOINT": self.url,
        }

    def make_bucket(self, name: str) -> None:
        """Create a container; everybody may read the one called `public`."""
        access = {"x-ms-blob-public-access": "container"} if name == PUBLIC else {}
        self._call("PUT", f"{name}?restype=container", b"", access)

    def put(self, key: str, content: bytes) -> None:
        """Store a blob; `key` begins with its container."""
        self._call("PUT", f"{quote(key)}?", content, {"x-ms-blob-type": "BlockBlob"})

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every blob of a container, by its name."""
        listed = ElementTree.fromstring(self._call("GET", f"{bucket}?restype=container&comp=list"))  # noqa: S314
        names = [name.text or "" for name in listed.iterfind("Blobs/Blob/Name")]
        return {name: self._call("GET", f"{bucket}/{quote(name)}?") for name in names}

    def _call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/{path}&{sas_token()}",
            data=body,
            method=method,
            headers={"x-ms-version": VERSION, **(headers or {})},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - loopback
            content: bytes = answer.read()
            return content


@contextmanager
def azurite_server(folder: Path, *buckets: str) -> Iterator[AzuriteServer]:
    """A server with containers `buckets`, whose blobs and log lie in `folder`; it ends with the block."""
    (port,) = ports.free(1)
    program = _environment() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    command = [
        "node", str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder),
        "--skipApiVersionCheck", "--disableTelemetry", "--silent",
    ]  # fmt: skip
    health, account = f"/{ACCOUNT}?comp=list&{sas_token()}", f"{ACCOUNT}:{KEY}"
    with server_process(
        command, port, folder, health=health, seconds=START_SECONDS, AZURITE_ACCOUNTS=account
    ) as address:
        server = AzuriteServer(f"{address}/{ACCOUNT}")
        for bucket in buckets:
            server.make_bucket(bucket)
        yield server


def _environment() -> Path:
    """The folder with the server's packages, made once per machine for each version of its lock."""
    locked = (LOCK / "package-lock.json").read_bytes()
    root = locations.from_environment().cache / "azurite"
    target = root / hashlib.sha256(locked).hexdigest()[:12]
    with exclusive(root / "in-use.lock"):
        if not (target / "complete").exists():
            if shutil.which("npm") is None:
                raise FileNotFoundError("tests of az:// start Azurite: install Node.js 20 or newer, with npm")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(LOCK, target)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(command, check=True, cwd=target)
            (target / "complete").touch()
    return target
