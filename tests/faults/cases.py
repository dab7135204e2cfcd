"""What a case is: a workload, a disturbance, and what must be true at the end."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from faults.arena import Arena
from faults.audit import plain
from faults.workloads import NAME, WORKLOADS, Actor, Workload

SECONDS = 90.0
"""Deadline of a case; a fault-free run takes about ten seconds on an idle machine."""

_POD = re.compile(r"-[0-9a-f]{6}-[a-z0-9]{5}\b")
"""What differs from run to run in the name of a pod."""

Disturb = Callable[[Arena], None]
Play = Callable[[Actor], None]
Judge = Callable[["Record", "Record"], Iterator[str]]
"""Compares a record with that of the fault-free run and tells what is wrong."""


@dataclass(frozen=True)
class Record:
    """What is left of a run, and how it came to be."""

    end: dict[str, Any]
    children: list[str]
    creates: Counter[str]
    deletes: Counter[str]
    writes: Counter[str]
    work: int
    """Writes that the gateway saw succeed."""


def record_of(arena: Arena) -> Record:
    audit, namespace = arena.ground.audit, arena.namespace
    children = sorted(plain(child) for child in arena.children() if not child.startswith("pods/"))
    return Record(
        end=end_of(arena.status(NAME)),
        children=children,
        creates=audit.creates(namespace),
        deletes=audit.deletes(namespace),
        writes=audit.writes(namespace),
        work=len(arena.gateway.work()),
    )


def end_of(status: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on what happened to the operator; moments and uids do."""
    return {
        "phase": status.get("phase"),
        "message": _POD.sub("", status.get("message") or ""),
        "conditions": sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions") or []),
        "attempts": status.get("attempts"),
        "children": [(c["stage"], c["attempt"]) for c in status.get("children") or []],
        "artifacts": status.get("artifacts"),
        "evaluation": status.get("evaluation"),
    }


def same(record: Record, want: Record) -> Iterator[str]:
    """The end state and the creates and deletes of every object are those of the fault-free run."""
    yield from _differs("end state", record.end, want.end)
    yield from _differs("children", record.children, want.children)
    yield from _differs("creates", record.creates, want.creates)
    yield from _differs("deletes", record.deletes, want.deletes)
    yield from calm(record, want)


def calm(record: Record, want: Record) -> Iterator[str]:
    """No object is written much more often than without a fault."""
    for name, count in record.writes.items():
        if not name.startswith("leases/") and count > 2 * want.writes[name] + 10:
            yield f"{name} was written {count} times, without the fault {want.writes[name]} times"


def _differs(what: str, found: Any, want: Any) -> Iterator[str]:
    if found == want:
        return
    if isinstance(found, Mapping) and isinstance(want, Mapping):
        keys = [key for key in {**want, **found} if found.get(key) != want.get(key)]
        found, want = {k: found.get(k) for k in keys}, {k: want.get(k) for k in keys}
    yield f"{what}: found {found}, without the fault {want}"


@dataclass(frozen=True)
class Case:
    """One run with one disturbance. Its id says all that is needed to run it again."""

    id: str
    workload: Workload
    disturb: Disturb
    play: Play | None = None
    """Played instead of the workload, with the workload's fault-free run to compare with."""
    judge: Judge = same
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: float = SECONDS
    may_exit: bool = False
    """Whether the operator may end by itself, to be started again by its kubelet."""
    alone: bool = False
    """Whether it disturbs the control plane, and so every other case."""

    @property
    def campaign(self) -> str:
        return self.id.split("/", 1)[0]


def fault_free(workload: Workload) -> Case:
    """The run that the others are compared with."""
    return Case(f"fault-free/{workload.name}", workload, lambda arena: arena.injected.append("nothing"))


def baselines() -> list[Case]:
    return [fault_free(workload) for workload in WORKLOADS.values()]
