"""Finds free TCP ports on loopback, and keeps them for the life of a cluster so that a restart is reachable where it
was.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from pathlib import Path


def free(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last is found, so they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return found


def remembered(record: Path, names: Iterable[str]) -> dict[str, int]:
    """A port for each name: the recorded one, else a free one that is recorded now."""
    known: dict[str, int] = json.loads(record.read_text()) if record.exists() else {}
    missing = [name for name in names if name not in known]
    known.update(zip(missing, free(len(missing)), strict=True))
    record.parent.mkdir(parents=True, exist_ok=True)
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps(known, indent=2))
    fresh.rename(record)
    return known
