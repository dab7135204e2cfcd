"""A server of each kind of bucket behind one interface, so that one test asks the same of all of them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from azurite_server import azurite_server
from finetune_api.names import OUTPUT_ENV_PREFIX
from finetune_trainer.object_clients import STORE_VARIABLES
from gcs_server import gcs_server
from s3_server import s3_server


class Server(Protocol):
    """What every server can do."""

    @property
    def environment(self) -> dict[str, str]:
        """What a job's Secret would hold."""

    def put(self, key: str, content: bytes) -> None:
        """Store an object; `key` begins with its bucket."""

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every object of a bucket, by its key."""


@dataclass(frozen=True)
class Scheme:
    """How jobs name a kind of store, and which of the variables matters for what."""

    name: str
    address: str
    """Variable with the address of the server."""
    wrong_keys: tuple[tuple[str, str], ...]
    """Variables with values that no server accepts."""
    keys: tuple[str, ...]
    """Variables without which a client is anonymous."""


SCHEMES = {
    "s3": Scheme(
        "s3",
        "AWS_ENDPOINT_URL",
        (("AWS_ACCESS_KEY_ID", "wrong"), ("AWS_SECRET_ACCESS_KEY", "wrong")),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ),
    "gs": Scheme(
        "gs",
        "STORAGE_EMULATOR_HOST",
        (("GOOGLE_OAUTH_ACCESS_TOKEN", "wrong"),),
        ("GOOGLE_OAUTH_ACCESS_TOKEN",),
    ),
    "az": Scheme(
        "az",
        "AZURE_STORAGE_SERVICE_ENDPOINT",
        (("AZURE_STORAGE_KEY", "d3Jvbmc="),),
        ("AZURE_STORAGE_KEY",),
    ),
}
_START = {"s3": s3_server, "gs": gcs_server, "az": azurite_server}


@contextmanager
def object_server(scheme: str, folder: Path, *buckets: str) -> Iterator[Server]:
    """A server of `scheme` with `buckets`, whose files lie in `folder`; it ends with the block."""
    server: AbstractContextManager[Server] = _START[scheme](folder, *buckets)
    with server as running:
        yield running


def forget_keys(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Take every variable of a store out of `environment`, which is the process's own."""
    starts = tuple(prefix + start for prefix in ("", OUTPUT_ENV_PREFIX) for start in STORE_VARIABLES)
    for name in [name for name in environment if name.startswith(starts)]:
        monkeypatch.delenv(name)
