"""Which job is worked on next: each once at a time, each waiting once, failures later and later.

It knows keys and moments; what is done with a key, and why, is not its business.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

Handler = Callable[[str], Awaitable[float | None]]
"""Works on a key; returns seconds until it wants to be called again, or None."""


class Timer(Protocol):
    """Something that was scheduled."""

    def cancel(self) -> object:
        """Do not do it."""
        ...


Schedule = Callable[[float, Callable[[], None]], Timer]
"""Calls back after some seconds."""


def backoff(failures: int, *, first: float = 0.25, longest: float = 60.0) -> float:
    """Seconds to wait after so many failures in a row: doubling from `first` to `longest`, shortened by up to half."""
    delay = min(longest, first * 2.0 ** min(failures - 1, 32))
    return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, protects nothing


class WorkQueue:
    """Keys to work on. All methods belong to one event loop."""

    def __init__(
        self,
        schedule: Schedule | None = None,
        on_error: Callable[[str, Exception, float], None] = lambda _key, _error, _delay: None,
    ) -> None:
        self._schedule = schedule or (lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        self._on_error = on_error
        self._ready: asyncio.Queue[str | None] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._running: dict[str, float] = {}
        self._timers: dict[str, Timer] = {}
        self._failures: dict[str, int] = {}
        self._open = asyncio.Event()
        self._stopped = False
        self._workers = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: str) -> None:
        """Have a key worked on, soon and once, however often this is called until then."""
        if key not in self._waiting:
            self._waiting.add(key)
            if key not in self._running:
                self._ready.put_nowait(key)

    def open(self) -> None:
        """Start, or go on, handing out keys."""
        self._open.set()

    def close(self) -> None:
        """Hand out no further key until opened again; running work goes on."""
        self._open.clear()

    def longest_run(self) -> float:
        """Seconds for which the longest running work has been running."""
        now = asyncio.get_running_loop().time()
        return max((now - started for started in self._running.values()), default=0.0)

    async def run(self, handler: Handler, workers: int) -> None:
        """Work until `stop`."""
        self._workers = workers
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(handler))

    def stop(self) -> None:
        """Make `run` return as soon as running work is done; nothing new is begun."""
        self._stopped = True
        self._open.set()
        for _ in range(self._workers):
            self._ready.put_nowait(None)

    async def _work(self, handler: Handler) -> None:
        while (key := await self._next()) is not None:
            try:
                self._settle(key, await handler(key))
            except Exception as error:  # whatever it is, the key must be tried again
                self._retry(key, error)
            finally:
                self._finish(key)

    async def _next(self) -> str | None:
        key = await self._ready.get()
        await self._open.wait()
        if key is None or self._stopped:
            return None
        self._waiting.discard(key)
        self._running[key] = asyncio.get_running_loop().time()
        return key

    def _settle(self, key: str, again_after: float | None) -> None:
        self._failures.pop(key, None)
        self._set_timer(key, again_after)

    def _retry(self, key: str, error: Exception) -> None:
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(backoff(self._failures[key]), getattr(error, "retry_after", 0.0))
        self._set_timer(key, delay)
        self._on_error(key, error, delay)

    def _finish(self, key: str) -> None:
        del self._running[key]
        if key in self._waiting:
            self._ready.put_nowait(key)

    def _set_timer(self, key: str, seconds: float | None) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if seconds is not None:
            self._timers[key] = self._schedule(seconds, lambda: self._due(key))

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)
