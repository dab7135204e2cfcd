"""Objects of a bucket (s3://bucket/key): which there are, and copies of them in the workspace.

Credentials and address come from the variables that every S3 client knows (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE), which the job's Secret sets. The client is pyarrow's:
s3fs cannot be installed beside the Kubernetes client, which asks for another python-dateutil.

Nothing is read here; what was copied is checked like any file of a claim. Must not write to a bucket.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from finetune_trainer.errors import InvalidSpecError, SourceNotFoundError, SourceUnavailableError
from finetune_trainer.result import write_atomically

OBJECT_SCHEMES = ("s3",)
CONNECT_SECONDS = 20.0
REQUEST_SECONDS = 120.0
ATTEMPTS = 4
LISTED = 8
_CHUNK = 8 << 20
_DENIED = ("ACCESS_DENIED", "AccessDenied", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID", "UserNotFound", "403)")
"""Marks of a refusal in the client's messages; some stores answer 404 to a key that they do not know."""
_ABSENT = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND")


@dataclass(frozen=True)
class StoredObject:
    """One object, as the store lists it."""

    key: str
    """With the bucket in front, as in `bucket/data/train.jsonl`."""
    size: int
    modified: str


def is_object_uri(uri: str) -> bool:
    """Whether `uri` names objects of a bucket."""
    return uri.partition("://")[0] in OBJECT_SCHEMES


def bring_objects(uri: str, folder: Path, choose: Callable[[list[str]], Sequence[str]]) -> Path:
    """Copy what `uri` names into `folder` and return the copy: a file for one object, `folder` for a prefix.

    `choose` picks among the relative names under a prefix. Repeating it copies only what has changed since, and what an
    earlier call left behind for other names is deleted.
    Raises SourceNotFoundError, SourceUnavailableError, InvalidSpecError, or what `choose` raises.
    """
    store = _store(os.environ, uri)
    path = uri.partition("://")[2].rstrip("/")
    with _store_errors(uri):
        found = _listed(store, path)
    names = {_relative(stored.key, path, uri): stored for stored in found}
    if not names:
        raise SourceNotFoundError(f"{uri} does not exist; {_neighbours(store, path, uri)}")
    single = [*names] == [""]
    chosen = {PurePosixPath(path).name: names[""]} if single else {name: names[name] for name in choose([*names])}
    _copy(store, chosen, folder, uri)
    return folder / PurePosixPath(path).name if single else folder


def _store(environment: Mapping[str, str], uri: str) -> Any:  # noqa: ANN401 - pyarrow has no types
    import certifi
    from pyarrow import fs  # type: ignore[import-untyped]

    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    address = urlsplit(endpoint)
    if endpoint and (address.scheme not in ("http", "https") or not address.netloc):
        raise InvalidSpecError(f"{uri}: AWS_ENDPOINT_URL is not an address, as in https://minio.storage:9000")
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise InvalidSpecError(f"{uri}: the Secret in credentials has no {missing}")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else _region_of(uri)
    # Without keys nobody else's are looked for: a node's own role is not the job's to use.
    return fs.S3FileSystem(
        access_key=key,
        secret_key=secret,
        session_token=environment.get("AWS_SESSION_TOKEN") or None if key else None,
        anonymous=not key,
        region=region,
        scheme=address.scheme or "https",
        endpoint_override=f"{address.netloc}{address.path.rstrip('/')}" or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        tls_ca_file_path=environment.get("AWS_CA_BUNDLE") or environment.get("SSL_CERT_FILE") or certifi.where(),
    )


def _region_of(uri: str) -> str:
    from pyarrow import fs

    with _store_errors(uri):
        return str(fs.resolve_s3_region(uri.partition("://")[2].partition("/")[0]))


def _listed(store: Any, path: str) -> list[StoredObject]:  # noqa: ANN401 - a pyarrow.fs.FileSystem
    """The object at `path`, or all objects under it, sorted by key."""
    from pyarrow import fs

    at_path = store.get_file_info(path)
    if at_path.type is fs.FileType.File:
        infos = [at_path]
    else:
        infos = store.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    files = [info for info in infos if info.type is fs.FileType.File and not info.path.endswith("/")]
    return sorted((StoredObject(file.path, file.size, str(file.mtime)) for file in files), key=lambda found: found.key)


def _relative(key: str, path: str, uri: str) -> str:
    """The name of `key` below `path`; empty for `path` itself. Raises SourceNotFoundError for a name that leaves it."""
    name = key.removeprefix(path).removeprefix("/")
    if name and (any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name):
        raise SourceNotFoundError(f"{uri}: the object {name!r} would lie outside of its folder; rename it")
    return name


def _neighbours(store: Any, path: str, uri: str) -> str:  # noqa: ANN401 - a pyarrow.fs.FileSystem
    """What is there in place of `path`, for a message."""
    from pyarrow import fs

    parent = path.rpartition("/")[0]
    if not parent:
        return "the bucket is empty, or is another one"
    with _store_errors(uri):
        infos = store.get_file_info(fs.FileSelector(parent, allow_not_found=True))
    folders = {info.path for info in infos if info.type is fs.FileType.Directory}
    names = sorted(PurePosixPath(info.path).name + ("/" if info.path in folders else "") for info in infos)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"s3://{parent} holds {', '.join(names[:LISTED]) or 'nothing'}{more}"


def _copy(store: Any, chosen: dict[str, StoredObject], folder: Path, uri: str) -> None:  # noqa: ANN401
    folder.mkdir(parents=True, exist_ok=True)
    record = folder.with_name(f"{folder.name}.json")
    done = _recorded(record)
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        name = str(file.relative_to(folder))
        if name not in chosen or done.get(name) != _state(chosen[name]):
            file.unlink()
    for name, stored in chosen.items():
        target = folder / name
        if target.is_file() and target.stat().st_size == stored.size:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with _store_errors(uri):
            _copy_one(store, stored, target)
        if target.stat().st_size != stored.size:
            raise SourceUnavailableError(f"{uri}: {name} has changed while it was copied; it is copied again")
        done[name] = _state(stored)
        write_atomically(record, json.dumps(done).encode())


def _copy_one(store: Any, stored: StoredObject, target: Path) -> None:  # noqa: ANN401 - a pyarrow.fs.FileSystem
    with store.open_input_stream(stored.key, compression=None) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)


def _recorded(record: Path) -> dict[str, str]:
    try:
        return {str(name): str(state) for name, state in json.loads(record.read_bytes()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def _state(stored: StoredObject) -> str:
    """Changes when the object does."""
    return hashlib.sha256(f"{stored.key}\0{stored.size}\0{stored.modified}".encode()).hexdigest()


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    """Turn what the client raises into SourceNotFoundError or SourceUnavailableError."""
    import pyarrow

    try:
        yield
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{uri} does not exist: {_first_line(error)}") from error
    except (OSError, pyarrow.ArrowException) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of this machine, such as a full disk: the store's errors carry none
        text = str(error)
        if any(mark in text for mark in _DENIED):
            raise SourceNotFoundError(
                f"{uri} may not be read with these keys: name a Secret with AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY in credentials, and check what they allow ({_first_line(error)})"
            ) from error
        if any(mark in text for mark in _ABSENT):
            raise SourceNotFoundError(f"{uri} does not exist: {_first_line(error)}") from error
        raise SourceUnavailableError(f"{uri}: the store did not answer: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).partition("\n")[0] or type(error).__name__)[:300]
