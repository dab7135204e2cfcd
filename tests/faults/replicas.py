"""Two replicas, and the one that leads is frozen for longer than its Lease: both never write at the same time.

Sixty seconds of frost at a Lease of fifteen are twelve at a Lease of three; one case takes the sixty.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping

from apiserver.gateway import Disturbed, Fault, Request
from faults.arena import Arena, Replica
from faults.cases import Case, Disturb
from faults.workloads import WORKLOADS

FAST: Mapping[str, object] = {
    "lease_duration_seconds": 3,
    "lease_renew_deadline_seconds": 2,
    "lease_retry_seconds": 0.4,
}
FROZEN_SECONDS = 12.0
IN_FULL_SECONDS = 60.0


def cases() -> Iterator[Case]:
    success = WORKLOADS["success"]
    for number in range(1, success.writes + 1):
        freeze = _freeze(number, FROZEN_SECONDS, FAST)
        yield Case(f"replicas/frozen/{number}", success, freeze, settings={"identity": "first", **FAST}, seconds=150)
    for number in (7, 12):
        freeze = _freeze(number, IN_FULL_SECONDS, {})
        yield Case(f"replicas/frozen-60s/{number}", success, freeze, settings={"identity": "first"}, seconds=300)


def _freeze(number: int, seconds: float, settings: Mapping[str, object]) -> Disturb:
    """The first replica stands still when the API server has done its n-th write, before it hears of it."""

    def disturb(arena: Arena) -> None:
        second = arena.add_replica(identity="second", **settings)
        writers = _note_writers(arena)
        seen, thaw_at = 0, 0.0

        def freeze() -> None:
            nonlocal thaw_at
            _signal(arena.replica, signal.SIGSTOP)
            thaw_at = time.monotonic() + seconds
            arena.injected.append(f"frozen for {seconds:g} s")

        def spoil(request: Request) -> Fault | None:
            nonlocal seen
            seen += request.is_work
            return Disturbed(after=freeze) if request.is_work and seen == number else None

        def check() -> None:
            nonlocal thaw_at
            if arena.injected and not second.starts:
                second.start()  # here, where replicas are kept alive: another thread would start it a second time
            if thaw_at and time.monotonic() > thaw_at:
                thaw_at = 0.0
                _signal(arena.replica, signal.SIGCONT)

        arena.gateway.spoil = spoil
        arena.on_breath.append(check)
        arena.checks.append(lambda: _both_wrote(writers))
        arena.unsettled.append(lambda: thaw_at)

    return disturb


def _signal(replica: Replica, number: signal.Signals) -> None:
    process = replica.process._process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, number)


def _note_writers(arena: Arena) -> list[str]:
    writers: list[str] = []
    for name, replica in zip(("first", "second"), arena.replicas, strict=True):

        def note(_request: Request, name: str = name) -> None:
            writers.append(name)

        replica.gateway.after_write = note
    return writers


def _both_wrote(writers: list[str]) -> Iterator[str]:
    if "second" in writers and "first" in writers[writers.index("second") :]:
        yield f"the first replica wrote after the second had begun: {writers}"
