"""How a running stage learns that its pod is asked to stop.

The handler only remembers; what to save and when to stop is decided at the end of a step, on the main thread, where
weights and optimizer agree with each other. Must not exit, log or write from inside the handler.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from finetune_trainer.errors import PreemptedError


class Preemption:
    """Whether SIGTERM has arrived."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, _signal: int = signal.SIGTERM, _frame: FrameType | None = None) -> None:
        """The signal handler."""
        self.requested = True

    def leave_if_requested(self, done: str) -> None:
        """Raises PreemptedError when asked to stop; `done` says what is kept, for the message."""
        if self.requested:
            raise PreemptedError(f"the pod was asked to stop; {done}")


@contextmanager
def watched() -> Iterator[Preemption]:
    """A Preemption that hears SIGTERM until the block ends; outside the main thread it hears nothing."""
    preemption = Preemption()
    if threading.current_thread() is not threading.main_thread():
        yield preemption
        return
    before = signal.signal(signal.SIGTERM, preemption.request)
    try:
        yield preemption
    finally:
        signal.signal(signal.SIGTERM, before)
