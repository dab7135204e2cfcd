"""A real S3 server, versitygw on a folder, as a process of the tests: buckets are folders, objects are files.

Without Go and without a cached program no test can start it, and the error says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_cluster import binaries, ports
from server_process import server_process

ACCESS_KEY, SECRET_KEY = "tests-access-key", "tests-secret-key"


@dataclass(frozen=True)
class S3Server:
    """A running server. Files that are put into `folder`/bucket are objects at once."""

    url: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a job's Secret would hold."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def put(self, key: str, content: bytes) -> None:
        """Store an object; `key` begins with its bucket."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every object of a bucket, by its key."""
        files = [path for path in (self.folder / bucket).rglob("*") if path.is_file()]
        return {path.relative_to(self.folder / bucket).as_posix(): path.read_bytes() for path in files}


@contextmanager
def s3_server(folder: Path, *buckets: str, readonly: bool = False, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """A server with `buckets`, whose objects and log lie in `folder`; it ends with the block."""
    objects = folder / "buckets"
    objects.mkdir(parents=True)
    for bucket in buckets:
        (objects / bucket).mkdir()
    (port,) = ports.free(1)
    command = [
        str(binaries.path("versitygw")),
        "--access", ACCESS_KEY, "--secret", SECRET_KEY,
        "--port", f"{host}:{port}", "--region", "us-east-1", "--health", "/health",
        *(["--readonly"] if readonly else []),
        "posix", "--sidecar", str(folder / "metadata"), str(objects),
    ]  # fmt: skip
    (folder / "metadata").mkdir()
    with server_process(command, port, folder, host=host) as address:
        yield S3Server(address, objects)
