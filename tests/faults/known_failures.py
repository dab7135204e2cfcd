"""Failures that other training operators had, each as a case: what went wrong there must not go wrong here."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from apiserver.gateway import Fault, Request, Spoiled
from faults.arena import Arena
from faults.cases import Case, Disturb, Record
from faults.workloads import NAME, WORKLOADS, Actor
from finetune_api.names import PLURAL
from finetune_api.status import Phase, Stage

CONFLICTS = 5
TOGGLES = 10
DEADLINE_SECONDS = 4


def cases() -> Iterator[Case]:
    success, deleted = WORKLOADS["success"], WORKLOADS["deleted-while-training"]
    patience = _each_write_once(lambda request: request.is_work, Spoiled(429, "TooManyRequests"))
    children = _each_write_once(lambda r: r.verb == "create" and r.resource != "events", Spoiled(500, "InternalError"))
    yield Case("known/every-write-meets-a-429/success", success, patience)
    yield Case("known/every-write-meets-a-429/deleted-while-training", deleted, patience)
    yield Case("known/every-create-of-a-child-fails/success", success, children)
    yield Case("known/conflicts-in-a-row/success", success, _conflicts)
    yield Case("known/suspended-and-resumed-ten-times", success, _nothing, play=_toggle, judge=_one_write_a_change)
    yield Case("known/status-of-the-job-is-stale", success, _nothing, play=_go_stale, judge=_says_overdue, alone=True)


def _nothing(arena: Arena) -> None:
    arena.injected.append("what the script does")


def _each_write_once(fits: Callable[[Request], bool], answer: Spoiled) -> Disturb:
    """Every write fails the first time; a status is another write for every other content."""

    def disturb(arena: Arena) -> None:
        seen: set[tuple[str, bytes]] = set()

        def spoil(request: Request) -> Fault | None:
            what = request.body if request.verb == "update" else b""
            key = (f"{request} {request.name}", what)
            if not fits(request) or key in seen or request.resource == "events":
                return None
            seen.add(key)
            arena.injected.append(f"{answer.code} to {key[0]}")
            return answer

        arena.gateway.spoil = spoil

    return disturb


def _conflicts(arena: Arena) -> None:
    """Five conflicts in a row, each of which must be followed by a look at the live job."""
    asked: list[str] = []

    def spoil(request: Request) -> Fault | None:
        if request.resource == PLURAL and request.verb == "get":
            asked.append("look")
        if request.resource == f"{PLURAL}/status" and asked.count("write") < CONFLICTS:
            asked.append("write")
            arena.injected.append("409")
            return Spoiled(409, "Conflict")
        return None

    arena.gateway.spoil = spoil
    arena.checks.append(lambda: _not_looked(asked))


def _not_looked(asked: list[str]) -> Iterator[str]:
    if ("write", "write") in pairwise(asked):
        yield f"a conflict was not followed by a look at the live job: {asked}"


def _toggle(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.wait_for_pod(Stage.TRAIN)
    for _ in range(TOGGLES):
        actor.change(suspend=True)
        actor.arena.breathe(0.1)
        actor.change(suspend=False)
        actor.arena.breathe(0.1)
    actor.finish()


def _one_write_a_change(record: Record, want: Record) -> Iterator[str]:
    for name, count in record.writes.items():
        if not name.startswith("leases/") and count > want.writes[name] + 2 * TOGGLES + 3:
            yield f"{name} was written {count} times for {2 * TOGGLES} changes"


def _go_stale(actor: Actor) -> None:
    """The Job controller stands still, so no Job's status says that its pod has ended; the deadline counts anyway."""
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.wait_for_pod(Stage.TRAIN)
    plane = actor.arena.ground.plane
    plane.pause("kube-controller-manager")
    try:
        actor.end(Stage.TRAIN)
        actor.change(activeDeadlineSeconds=DEADLINE_SECONDS)
        actor.wait_ended()
    finally:
        plane.resume("kube-controller-manager")
    assert actor.phase is Phase.FAILED, f"found {actor.phase}: {actor.arena.status(NAME)}"


def _says_overdue(record: Record, _want: Record) -> Iterator[str]:
    if ("Succeeded", "False", "DeadlineExceeded") not in record.end["conditions"]:
        yield f"the deadline is not told: {record.end}"
