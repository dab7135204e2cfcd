"""Where one case happens: a namespace, an operator behind a gateway, and the patience of whoever waits for both."""

import http.client
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from apiserver.gateway import Gateway
from apiserver.operator_process import OperatorProcess, permissions, token
from apiserver.team import Object, Team
from faults.audit import AuditLog
from faults.observer import Observer
from local_cluster.control_plane import ControlPlane

SCALE = 20
"""What takes 120 s on a real cluster takes 6 s here; periods of the operator that can be set shrink likewise."""
SCALED: Mapping[str, object] = {"resync_seconds": 300 / SCALE, "api_timeout_seconds": 30 / SCALE}
QUIET_SECONDS = 0.8
BUSIEST = 40
"""Most requests of one kind about one object within ten seconds; more is an endless loop."""
NOT_NOW = (AssertionError, OSError, http.client.HTTPException)
_ANYWHERE = "namespace-of-the-case"


@cache
def _permissions() -> str:
    return json.dumps(permissions(_ANYWHERE))


@dataclass(frozen=True)
class Ground:
    """What all cases of one control plane share."""

    plane: ControlPlane
    observer: Observer
    audit: AuditLog
    folder: Path


@dataclass
class Replica:
    """One operator process and what it went through."""

    process: OperatorProcess
    gateway: Gateway
    deaths_planned: int = 0
    starts: int = 0
    exits: list[int | None] = field(default_factory=list)

    def start(self) -> None:
        self.starts += 1
        self.process.start()

    def kill(self) -> None:
        """As a crash would; it is started again by whoever keeps it alive."""
        self.deaths_planned += 1
        self.process.kill()

    def keep_alive(self) -> None:
        """Do what a kubelet does with restartPolicy Always, and remember deaths that nobody planned."""
        if self.starts and not self.process.alive:
            if self.starts > self.deaths_planned:
                self.deaths_planned += 1
                self.exits.append(self.process.ended(within=1.0))
            self.start()


class Arena:
    """One namespace with one or more replicas of the operator."""

    def __init__(self, ground: Ground, namespace: str, seconds: float) -> None:
        self.ground = ground
        self.namespace = namespace
        self.team = Team(ground.plane, namespace, json.loads(_permissions().replace(_ANYWHERE, namespace)))
        self.replicas: list[Replica] = []
        self.injected: list[str] = []
        """What has been done to disturb; a case in which nothing was, proves nothing."""
        self.on_breath: list[Callable[[], None]] = []
        """Called again and again while somebody waits."""
        self.checks: list[Callable[[], Iterable[str]]] = []
        """Called at the end; each tells what is wrong."""
        self.unsettled: list[Callable[[], object]] = []
        """Whether something is still to come of the disturbance."""
        self.cut_off = False
        """Whether the operator has not yet been let through to the API server."""
        self._bearer = token(ground.plane, namespace)
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._folder = ground.folder / namespace
        self._folder.mkdir(parents=True)

    def add_replica(self, **settings: object) -> Replica:
        """One more operator, behind a gateway of its own, that has not been started."""
        gateway = Gateway(self.ground.plane).__enter__()
        process = OperatorProcess(gateway, self._folder, self.namespace, self._bearer, **{**SCALED, **settings})
        self.replicas.append(Replica(process, gateway))
        return self.replicas[-1]

    @property
    def replica(self) -> Replica:
        return self.replicas[0]

    @property
    def gateway(self) -> Gateway:
        return self.replica.gateway

    # Looking

    def job(self, name: str) -> Object:
        return self.ground.observer.job(self.namespace, name)

    def status(self, name: str) -> dict[str, Any]:
        return self.job(name).get("status") or {}

    def all(self, resource: str) -> list[Object]:
        return self.ground.observer.all(self.namespace, resource)

    def children(self) -> list[str]:
        return self.ground.observer.children(self.namespace)

    # Waiting

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for something; dead operators are started again meanwhile."""
        while not condition():
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"after {self._seconds:g} s still not: {what}\n{self._summary()}")
            self.breathe(0.03)

    def _summary(self) -> str:
        jobs = [(job["metadata"]["name"], job.get("status") or {}) for job in self.all("finetunejobs")]
        told = [f"{name}: {status.get('phase')}: {status.get('message')}" for name, status in jobs]
        pods = [f"{pod['metadata']['name']}: {pod['status'].get('phase')}" for pod in self.all("pods")]
        return "\n".join([*told, *self.children(), *pods])

    def breathe(self, seconds: float) -> None:
        """Let time pass."""
        for replica in self.replicas:
            replica.keep_alive()
        for call in self.on_breath:
            call()
        time.sleep(seconds)

    def insist(self, what: str, action: Callable[[], object]) -> None:
        """Do something that the disturbed API server may refuse for a while."""

        def done() -> bool:
            try:
                action()
            except NOT_NOW:
                return False
            return True

        self.until(what, done)

    def settle(self) -> None:
        """Wait until every replica is ready and none has anything more to write."""
        self.until("the fault is injected", lambda: self.injected)
        self.until("the disturbance is over", lambda: not any(ask() for ask in self.unsettled))
        self.until("the operator is ready", lambda: all(r.process.is_ready() for r in self.replicas if r.starts))
        quiet_since, before = time.monotonic(), self._work()
        while time.monotonic() < quiet_since + QUIET_SECONDS:
            self.until("silence", lambda: True)
            self.breathe(0.05)
            if self._work() != before:
                quiet_since, before = time.monotonic(), self._work()

    def _work(self) -> int:
        return sum(len(replica.gateway.work()) for replica in self.replicas)

    # Judging

    def busiest(self) -> list[str]:
        """Requests that were repeated as fast as they could be."""
        return [found for replica in self.replicas for found in _loops(replica.gateway)]

    def wrong(self) -> list[str]:
        """What the checks of the disturbance tell."""
        return [found for check in self.checks for found in check()]

    def unplanned_exits(self) -> list[int | None]:
        return [code for replica in self.replicas for code in replica.exits]

    def logs(self) -> Path:
        """Folder of the operators' logs."""
        return self._folder

    def close(self) -> None:
        for replica in self.replicas:
            replica.process.cleanup()
            replica.gateway.__exit__()


def _loops(gateway: Gateway) -> list[str]:
    moments: dict[str, deque[float]] = defaultdict(deque)
    found: Counter[str] = Counter()
    for request in [*gateway.requests]:
        if request.resource in ("leases", "pods/proxy"):
            continue
        key = f"{request} {request.name} {request.query if request.verb == 'list' else ''}".strip()
        recent = moments[key]
        recent.append(request.at)
        while recent[0] < request.at - 10.0:
            recent.popleft()
        found[key] = max(found[key], len(recent))
    return [f"{n} times within ten seconds: {key}" for key, n in found.items() if n > BUSIEST]
