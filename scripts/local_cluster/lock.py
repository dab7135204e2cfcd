"""One call at a time: `up` and `down` of two terminals would undo each other. The kernel frees the lock of a killed
holder.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_cluster.progress import say


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Says that the thing is in use; others may use it, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextmanager
def if_unused(path: Path) -> Iterator[bool]:
    """Holds the lock if nobody does, without waiting; whether it is held."""
    if not path.parent.exists():
        yield True
        return
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits until no other call holds the lock, then holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another call holds {path}; waiting for it to end...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
