"""The operator is killed before and after every single write of every workload."""

from collections.abc import Iterator

from apiserver.gateway import Disturbed, Fault, Request, Spoiled
from faults.arena import Arena
from faults.cases import Case, Disturb
from faults.workloads import WORKLOADS


def cases() -> Iterator[Case]:
    for workload in WORKLOADS.values():
        for number in range(1, workload.writes + 1):
            yield Case(f"kill/before/{workload.name}/{number}", workload, _kill(number, before=True))
            yield Case(f"kill/after/{workload.name}/{number}", workload, _kill(number, before=False))


def _kill(number: int, *, before: bool) -> Disturb:
    """Before: the API server never gets the write. After: it has done it, and the operator never hears."""

    def disturb(arena: Arena) -> None:
        seen = 0

        def die(request: Request) -> None:
            arena.injected.append(f"killed {'before' if before else 'after'} {request} {request.name}")
            arena.replica.kill()

        def spoil(request: Request) -> Fault | None:
            nonlocal seen
            seen += request.is_work
            if not request.is_work or seen != number:
                return None
            if not before:
                return Disturbed(share=0.0, after=lambda: die(request))
            die(request)
            return Spoiled(0)

        arena.gateway.spoil = spoil

    return disturb
