"""Watches that lie: lines that are repeated, swapped, replayed, held back, cut or never come, and gaps between them."""

import json
import time
from collections.abc import Callable, Iterator, Mapping

from apiserver.gateway import AsTheyCome, Fault, Lines, Request, Spoiled
from faults.arena import Arena
from faults.cases import Case, Disturb, Play, calm
from faults.user_actions import delete_current_job, delete_pods, evict_pods, goes_on, is_gone
from faults.workloads import NAME, WORKLOADS, Actor
from finetune_api.names import PLURAL
from finetune_api.status import Phase, Stage

RESOURCES = (PLURAL, "jobs", "pods")
HELD_SECONDS = 1.5
GAP_SECONDS = 2.0
Note = Callable[[str], None]


class Repeated(AsTheyCome):
    """Every line two times."""

    def take(self, line: bytes) -> list[bytes]:
        return [line, line]


class Replayed(AsTheyCome):
    """Before every line, all the earlier ones again."""

    def __init__(self) -> None:
        self._earlier: list[bytes] = []

    def take(self, line: bytes) -> list[bytes]:
        passed = [*self._earlier, line]
        self._earlier = [*self._earlier, line][-20:]
        return passed


class Swapped(AsTheyCome):
    """Every two lines that come one soon after the other change places."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def take(self, line: bytes) -> list[bytes]:
        passed, self._held = ([line, *self._held], []) if self._held else ([], [line])
        return passed

    def idle(self) -> list[bytes]:
        passed, self._held = self._held, []
        return passed


class Held(AsTheyCome):
    """Every line comes late, so that children are seen before their owner or the other way round."""

    def __init__(self) -> None:
        self._held: list[tuple[float, bytes]] = []

    def take(self, line: bytes) -> list[bytes]:
        self._held.append((time.monotonic() + HELD_SECONDS, line))
        return self.idle()

    def idle(self) -> list[bytes]:
        due = [line for at, line in self._held if at <= time.monotonic()]
        self._held = self._held[len(due) :]
        return due


class Silent(AsTheyCome):
    """Nothing but bookmarks."""

    def take(self, line: bytes) -> list[bytes]:
        return [line] if json.loads(line)["type"] == "BOOKMARK" else []


class Cut(AsTheyCome):
    """Half of the first line, then the end."""

    def __init__(self) -> None:
        self._cut = False

    def take(self, line: bytes) -> list[bytes]:
        if self._cut:
            raise EOFError
        self._cut = True
        return [line[: len(line) // 2]]

    def idle(self) -> list[bytes]:
        if self._cut:
            raise EOFError
        return []


class Ended(AsTheyCome):
    """The connection is closed instead of the first line."""

    def take(self, _line: bytes) -> list[bytes]:
        raise EOFError


def error_line(code: int, reason: str) -> bytes:
    """As the API server says it in the stream of a watch whose HTTP status was 200."""
    status = {"kind": "Status", "code": code, "reason": reason, "message": "spoiled by the test"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


class Failing(AsTheyCome):
    """An error in the stream instead of the first line."""

    def __init__(self, code: int, reason: str) -> None:
        self._error = error_line(code, reason)

    def take(self, _line: bytes) -> list[bytes]:
        return [self._error]


ALWAYS: Mapping[str, Callable[[], Lines]] = {
    "repeated": Repeated,
    "replayed": Replayed,
    "swapped": Swapped,
    "held": Held,
    "silent": Silent,
}
FIRST_TIMES: Mapping[str, Callable[[], Lines]] = {
    "cut": Cut,
    "ended": Ended,
    "error-410": lambda: Failing(410, "Expired"),
    "error-429": lambda: Failing(429, "TooManyRequests"),
    "error-500": lambda: Failing(500, "InternalError"),
}
"""These happen to the first three watches of a resource."""
TIMES = 3
ENDS_A_WATCH = ("error-429", "error-500", "cut")
"""kopf gives up a watch on an error in the stream; the operator then ends and is started again."""
LIVES = ("success", "crash-then-success", "suspend-and-resume", "deleted-while-training")


def cases() -> Iterator[Case]:
    for life in LIVES:
        for resource in RESOURCES:
            for name, lines in {**ALWAYS, **FIRST_TIMES}.items():
                times = TIMES if name in FIRST_TIMES else 1_000_000
                yield Case(
                    f"watch/{name}/{resource}/{life}",
                    WORKLOADS[life],
                    _spoil_lines(resource, lines, times),
                    settings={"resync_seconds": 1},
                    may_exit=name in ENDS_A_WATCH,
                )
    for name, (act, then) in GAPS.items():
        for stage in Stage:
            play = _play_gap(stage, act, then)
            yield Case(f"watch/gap-{name}/{stage}", WORKLOADS["success"], _count_gaps, play=play, judge=calm)


def _spoil_lines(resource: str, lines: Callable[[], Lines], times: int) -> Disturb:
    def disturb(arena: Arena) -> None:
        left = times

        def choose(request: Request) -> Lines:
            nonlocal left
            if request.resource != resource or left <= 0:
                return AsTheyCome()
            left -= 1
            arena.injected.append(f"lines of {request}")
            return lines()

        arena.gateway.lines = choose

    return disturb


# Gaps: the watches break, something happens, and the new ones are told that they come too late to go on


def _count_gaps(arena: Arena) -> None:
    arena.gateway.spoil = lambda _request: None


def _play_gap(stage: Stage, act: Play, then: Callable[[Actor, Phase], None]) -> Play:
    def play(actor: Actor) -> None:
        actor.submit()
        for one in Stage:
            if one is stage:
                break
            actor.end(one)
        actor.wait_for_pod(stage)
        _gap(actor, act)
        then(actor, Phase.TRAINING)

    return play


def _gap(actor: Actor, act: Play) -> None:
    arena = actor.arena
    too_old: set[str] = set()

    def unreachable(_request: Request) -> Fault | None:
        return Spoiled(0)

    def expired(request: Request) -> Fault | None:
        if request.verb != "watch" or request.resource in too_old:
            return None
        too_old.add(request.resource)
        arena.injected.append(f"410 to {request}")
        return Spoiled(200, body=error_line(410, "Expired"))

    arena.until("the watches are open", lambda: len(arena.gateway.open_watches()) == len(RESOURCES))
    arena.gateway.spoil = unreachable
    arena.gateway.break_watches()
    act(actor)
    arena.breathe(GAP_SECONDS)
    arena.gateway.spoil = expired


def _nothing(_actor: Actor) -> None:
    return


def _recreate(actor: Actor) -> None:
    actor.delete()
    actor.arena.until("its children are gone", lambda: not actor.arena.children())
    actor.submit()


def _delete(actor: Actor) -> None:
    actor.delete()
    actor.arena.until("nothing is left", lambda: not actor.arena.children())


def _end_the_stage(actor: Actor) -> None:
    actor.end(next(s for s in Stage if actor.pod(s)))


def _is_forgotten(actor: Actor, phase: Phase) -> None:
    """The operator notices that the job is gone though no watch said so."""
    is_gone(actor, phase)
    operator = actor.arena.replica.process
    actor.arena.until("the job is forgotten", lambda: 'finetune_jobs{phase="' not in _held(operator.ask("/metrics")[1]))


def _held(metrics: str) -> str:
    return "\n".join(line for line in metrics.splitlines() if not line.endswith(" 0.0"))


def _begins_anew(actor: Actor, phase: Phase) -> None:
    goes_on(actor, phase)
    assert actor.arena.status(NAME)["attempts"]["count"] == len(Stage)


GAPS: Mapping[str, tuple[Play, Callable[[Actor, Phase], None]]] = {
    "nothing": (_nothing, goes_on),
    "stage-ended": (_end_the_stage, goes_on),
    "job-deleted": (_delete, _is_forgotten),
    "job-recreated": (_recreate, _begins_anew),
    "child-deleted": (delete_current_job, goes_on),
    "pod-deleted": (delete_pods, goes_on),
    "pod-evicted": (evict_pods, goes_on),
}
