"""Every status code and every broken answer, for every kind of request: once, five times, and for two minutes.

The two minutes are scaled (`arena.SCALE`); a few cases take them in full.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from apiserver.gateway import Disturbed, Fault, Request, Spoiled
from faults.arena import SCALE, Arena
from faults.cases import Case, Disturb
from faults.workloads import WORKLOADS

LONG_SECONDS = 120.0
TIMEOUT_SECONDS = 30.0 / SCALE
LATE_SECONDS = TIMEOUT_SECONDS + 1.0
"""By then the operator has given up waiting for an answer."""

WRITES = ("create", "update", "patch", "delete")
Answer = Callable[[Request], Fault]


def _code(code: int, reason: str) -> Answer:
    return lambda _request: Spoiled(code, reason)


def _conflict(request: Request) -> Fault:
    return Spoiled(409, "AlreadyExists" if request.verb == "create" else "Conflict")


def _says(body: bytes, code: int = 200) -> Answer:
    return lambda _request: Spoiled(code, body=body)


def _always(fault: Fault) -> Answer:
    return lambda _request: fault


ANSWERS: Mapping[str, Answer] = {
    "400": _code(400, "BadRequest"),
    "401": _code(401, "Unauthorized"),
    "403": _code(403, "Forbidden"),
    "404": _code(404, "NotFound"),
    "409": _conflict,
    "410": _code(410, "Expired"),
    "413": _code(413, "RequestEntityTooLarge"),
    "422": _code(422, "Invalid"),
    "429": _code(429, "TooManyRequests"),
    "500": _code(500, "InternalError"),
    "502": _says(b"<html>Bad Gateway</html>", 502),
    "503": _code(503, "ServiceUnavailable"),
    "504": _code(504, "Timeout"),
    "closed": _always(Spoiled(0)),
    "silent": _always(Spoiled(0, after=LATE_SECONDS)),
    "truncated": _always(Disturbed(share=0.5)),
    "late": _always(Disturbed(delay=LATE_SECONDS)),
    "empty": _says(b""),
    "html": _says(b"<html>Please log in</html>"),
    "list": _says(b"[]"),
    "object": _says(b"{}"),
}
ANSWERS_TO_WRITES: Mapping[str, Answer] = {
    "lost": _always(Disturbed(share=0.0)),
    "twice": _always(Disturbed(twice=True)),
}
SENSELESS = ("empty", "html", "list", "object")
ENDS_A_WATCH = ("400", "404", "409", "413", "422", *SENSELESS)
"""kopf gives up a watch on these; the operator then ends, and its kubelet starts it again."""
ENDS_IT_TOO = "410"
"""As an HTTP status; the API server says it in the stream, where it leads to a new list (`watch/error-410`)."""


@dataclass(frozen=True)
class Kind:
    """A kind of request, the workload in which it is made, and what must go wrong before it is."""

    verb: str
    resource: str
    workload: str = "success"
    after: str = ""

    @property
    def name(self) -> str:
        return f"{self.verb}-{self.resource.replace('/', '-')}"

    def fits(self, request: Request) -> bool:
        return request.verb == self.verb and request.resource == self.resource

    @property
    def answers(self) -> dict[str, Answer]:
        return {**ANSWERS, **(ANSWERS_TO_WRITES if self.verb in WRITES else {})}


KINDS = (
    Kind("list", "finetunejobs"),
    Kind("list", "jobs"),
    Kind("list", "pods"),
    Kind("list", "persistentvolumeclaims", after="503"),
    Kind("list", "networkpolicies", after="503"),
    Kind("watch", "finetunejobs"),
    Kind("watch", "jobs"),
    Kind("watch", "pods"),
    Kind("get", "finetunejobs", after="503"),
    Kind("get", "jobs", after="409"),
    Kind("create", "persistentvolumeclaims"),
    Kind("create", "networkpolicies"),
    Kind("create", "jobs"),
    Kind("create", "events"),
    Kind("update", "finetunejobs/status"),
    Kind("patch", "jobs", "suspend-and-resume"),
    Kind("delete", "jobs", "deadline-exceeded"),
    Kind("delete", "finetunejobs", "expired"),
    Kind("get", "leases"),
    Kind("create", "leases"),
    Kind("update", "leases"),
)


@dataclass
class Times:
    """How often, or for how long, requests are spoiled."""

    name: str
    count: int = 1_000_000
    seconds: float = 1_000_000.0
    _began: float = 0.0

    def again(self) -> bool:
        """Whether this request is spoiled, too."""
        now = time.monotonic()
        self._began = self._began or now
        self.count -= 1
        return self.count >= 0 and now < self._began + self.seconds


def times() -> tuple[Times, ...]:
    return Times("once", count=1), Times("five-times", count=5), Times("long", seconds=LONG_SECONDS / SCALE)


def cases() -> Iterator[Case]:
    for kind in KINDS:
        for answer in kind.answers:
            yield from (_case(kind, answer, often.name) for often in times())
    for kind in (k for k in KINDS if k.name in ("watch-jobs", "create-jobs", "update-finetunejobs-status")):
        yield from (_in_full(kind, answer) for answer in ("429", "503", "closed"))


def _case(kind: Kind, answer: str, often: str) -> Case:
    how = _spoil(kind, answer, lambda: next(t for t in times() if t.name == often))
    may_exit = kind.verb in ("watch", "list") and answer in (*ENDS_A_WATCH, ENDS_IT_TOO)
    return Case(f"answer/{kind.name}/{answer}/{often}", WORKLOADS[kind.workload], how, may_exit=may_exit)


def _in_full(kind: Kind, answer: str) -> Case:
    how = _spoil(kind, answer, lambda: Times("120s", seconds=LONG_SECONDS))
    settings = {"resync_seconds": 300, "api_timeout_seconds": 30}
    name = f"answer-in-full/{kind.name}/{answer}/120s"
    return Case(name, WORKLOADS[kind.workload], how, settings=settings, seconds=400.0)


def _spoil(kind: Kind, answer: str, how_often: Callable[[], Times]) -> Disturb:
    def disturb(arena: Arena) -> None:
        often, before = how_often(), Times("before", count=1 if kind.after else 0)

        def spoil(request: Request) -> Fault | None:
            if kind.fits(request) and often.again():
                arena.injected.append(f"{answer} to {request} {request.name}")
                return kind.answers[answer](request)
            if request.verb == "create" and request.resource == "jobs" and before.again():
                return ANSWERS[kind.after](request)
            return None

        arena.gateway.spoil = spoil

    return disturb
