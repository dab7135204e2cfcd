"""Knows whether an image is still what its sources would make, so that a build that would change nothing is skipped:
asking every layer's cache takes half a minute.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from local_cluster.images_store import Store

_COPY = re.compile(r"^COPY (?!--from=)(?P<sources>.+) \S+$", re.MULTILINE)


def digest(dockerfile: Path, context: Path, settings: Mapping[str, str]) -> str:
    """Changes when the Dockerfile, a file that it copies, or a setting of the build changes."""
    made = hashlib.sha256(json.dumps([dockerfile.read_text(), dict(settings)], sort_keys=True).encode())
    for path in _copied(dockerfile, context):
        made.update(f"{path.relative_to(context)}\0".encode())
        made.update(hashlib.sha256(path.read_bytes()).digest())
    return made.hexdigest()


def _copied(dockerfile: Path, context: Path) -> Iterator[Path]:
    for copy in _COPY.finditer(dockerfile.read_text()):
        for source in copy["sources"].split():
            yield from _files(context / source)


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def is_current(store: Store, tag: str, sources: str) -> bool:
    """Whether the image of that tag was made from these sources and is still there."""
    record = _record(store, tag)
    if not record.exists() or not store.has(tag):
        return False
    return bool(json.loads(record.read_text()) == {"sources": sources, "image": store.image_id(tag)})


def remember(store: Store, tag: str, sources: str) -> None:
    """Note what the image of that tag was made from."""
    record = _record(store, tag)
    record.parent.mkdir(parents=True, exist_ok=True)
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps({"sources": sources, "image": store.image_id(tag)}))
    fresh.rename(record)


def _record(store: Store, tag: str) -> Path:
    return store.directory / "made" / f"{re.sub('[^a-z0-9.-]', '-', tag)}.json"
