"""What a plan may ask the shell to do. Executed in this order: status, create, patch, delete, events.

The status goes first, so that a child is recorded before it exists and a terminal phase is stored before any cleanup.
A create that the API server refuses ends the execution; the refusal is part of what is observed next.
"""

from dataclasses import dataclass
from typing import Any, Literal

from finetune_operator.core.observed import Manifest


@dataclass(frozen=True)
class Deletion:
    """An object to delete, only if it still has this uid."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    propagation: Literal["Foreground", "Background"] = "Background"


@dataclass(frozen=True)
class Patch:
    """A merge patch of an object of this job's namespace, only if it still has this uid."""

    kind: Literal["Job", "Workload"]
    name: str
    uid: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about the FineTuneJob, to be written after the status write succeeded."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class ProgressTarget:
    """The running pod to read progress from."""

    pod_name: str
    pod_ip: str
    port: int


@dataclass(frozen=True)
class Plan:
    """What to do now. Executed in this order: status, create, patch, delete, events."""

    status: Manifest | None = None
    """The whole new status, when it differs from the stored one."""
    create: tuple[Manifest, ...] = ()
    """The last one is created when all others exist; those are created at the same time."""
    patch: tuple[Patch, ...] = ()
    delete: tuple[Deletion, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until something is due without any event; None when only an event can change anything."""
    needs_confirmation: bool = False
    """The decision rests on an absence: read everything live and plan again with confirmed=True first."""
    progress_from: ProgressTarget | None = None
    reason: str = ""
    """Why this is all there is to do; for logs and tests."""
