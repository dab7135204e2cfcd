"""Waits for a condition, looking often: a start of a few seconds should not be rounded up."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether the condition came true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(INTERVAL_SECONDS)
    return True
