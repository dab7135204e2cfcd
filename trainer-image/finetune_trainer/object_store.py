"""Objects of a bucket (s3://bucket/key, gs://, az://): which there are, and copies of them in the workspace.

Nothing is read here; what was copied is checked like any file of a claim. Must not write to a bucket.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import SourceNotFoundError, SourceUnavailableError
from finetune_trainer.object_clients import Store, is_object_uri, open_store
from finetune_trainer.result import write_atomically

__all__ = ["bring_objects", "bucket_is_missing", "is_object_uri", "received", "stored_objects"]

LISTED = 8
CHUNK = 8 << 20
"""Bytes of an object that are in memory at once."""


@dataclass(frozen=True)
class StoredObject:
    """One object, as the store lists it."""

    key: str
    """With the bucket in front, as in `bucket/data/train.jsonl`."""
    size: int
    modified: str


def bring_objects(uri: str, folder: Path, choose: Callable[[list[str]], Sequence[str]]) -> Path:
    """Copy what `uri` names into `folder` and return the copy: a file for one object, `folder` for a prefix.

    `choose` picks among the relative names under a prefix. Repeating it copies only what has changed since, and what an
    earlier call left behind for other names is deleted.
    Raises SourceNotFoundError, SourceUnavailableError, InvalidSpecError, or what `choose` raises.
    """
    store = open_store(uri, os.environ)
    path = store.path
    names = {_relative(stored.key, path, uri): stored for stored in stored_objects(store, path)}
    if not names:
        raise SourceNotFoundError(f"{uri} does not exist; {_neighbours(store)}")
    single = [*names] == [""]
    chosen = {PurePosixPath(path).name: names[""]} if single else {name: names[name] for name in choose([*names])}
    _copy(store, chosen, folder)
    return folder / PurePosixPath(path).name if single else folder


def stored_objects(store: Store, path: str) -> list[StoredObject]:
    """The object at `path`, or all objects under it, sorted by key; empty when there is none.

    Raises as Store.errors.
    """
    from pyarrow import fs  # type: ignore[import-untyped]

    with store.errors():
        at_path = store.files.get_file_info(path)
        if at_path.type is fs.FileType.File:
            infos = [at_path]
        else:
            infos = store.files.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    files = [info for info in infos if info.type is fs.FileType.File and not info.path.endswith("/")]
    return sorted((StoredObject(file.path, file.size, str(file.mtime)) for file in files), key=lambda found: found.key)


def received(store: Store, key: str) -> Iterator[bytes]:
    """The content of an object in pieces of at most CHUNK bytes. Raises as Store.errors."""
    with store.errors():
        source = store.files.open_input_stream(key, compression=None)
    with source:
        while True:
            with store.errors():
                piece = source.read(CHUNK)
            if not piece:
                return
            yield piece


def _relative(key: str, path: str, uri: str) -> str:
    """The name of `key` below `path`; empty for `path` itself. Raises SourceNotFoundError for a name that leaves it."""
    name = key.removeprefix(path).removeprefix("/")
    if name and (any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name):
        raise SourceNotFoundError(f"{uri}: the object {name!r} would lie outside of its folder; rename it")
    return name


def bucket_is_missing(store: Store) -> bool:
    """Whether there is no such bucket. To look at a bucket itself takes a permission of its own; False without it."""
    from pyarrow import fs

    try:
        with store.errors():
            return bool(store.files.get_file_info(store.bucket).type is fs.FileType.NotFound)
    except store.refused:
        return False


def _neighbours(store: Store) -> str:
    """What is there in place of the store's path, for a message."""
    from pyarrow import fs

    if bucket_is_missing(store):
        return f"there is no bucket {store.bucket}"
    parent = store.path.rpartition("/")[0]
    if not parent:
        return "the bucket is empty"
    if not store.kind.lists_folders:
        return "no object has this key, and none lies below it"
    with store.errors():
        infos = store.files.get_file_info(fs.FileSelector(parent, allow_not_found=True))
    folders = {info.path for info in infos if info.type is fs.FileType.Directory}
    names = sorted(PurePosixPath(info.path).name + ("/" if info.path in folders else "") for info in infos)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{store.uri.rpartition('/')[0]} holds {', '.join(names[:LISTED]) or 'nothing'}{more}"


def _copy(store: Store, chosen: dict[str, StoredObject], folder: Path) -> None:
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
        with target.open("wb") as copy:
            for piece in received(store, stored.key):
                copy.write(piece)
        if target.stat().st_size != stored.size:
            raise SourceUnavailableError(f"{store.uri}: {name} has changed while it was copied; it is copied again")
        done[name] = _state(stored)
        write_atomically(record, json.dumps(done).encode())


def _recorded(record: Path) -> dict[str, str]:
    try:
        return {str(name): str(state) for name, state in json.loads(record.read_bytes()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def _state(stored: StoredObject) -> str:
    """Changes when the object does."""
    return hashlib.sha256(f"{stored.key}\0{stored.size}\0{stored.modified}".encode()).hexdigest()
