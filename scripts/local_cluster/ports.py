"""Finds free TCP ports on loopback, and keeps them for the life of a cluster so that a restart is reachable where it
was.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

CHOICE = range(15_000, 30_000)
"""Below what Linux (32768 to 60999) and kube-proxy (30000 to 32767) give away: a port that the kernel would choose can
be taken by any outgoing connection before its server starts."""


def free(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last is found, so they differ."""
    with ExitStack() as held:
        listeners = [held.enter_context(listener) for _, listener in zip(range(count), _listeners(), strict=False)]
        return [listener.getsockname()[1] for listener in listeners]


def _listeners() -> Iterator[socket.socket]:
    for port in random.sample(CHOICE, len(CHOICE)):
        with suppress(OSError):
            yield socket.create_server(("127.0.0.1", port))
    raise OSError(f"no free port between {CHOICE.start} and {CHOICE.stop - 1}")


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
