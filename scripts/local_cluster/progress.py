"""Tells the user what takes long, on standard error, one line when it starts and one when it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """One line for the user."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def step(message: str) -> Iterator[None]:
    """Announces a step and says how long it took; a step that fails leaves its error to the caller."""
    say(f"{message}...")
    started = time.monotonic()
    yield
    say(f"{message}: {time.monotonic() - started:.1f} s")
