"""What a queue manager says about a stage's Job, and how a user's wish to stop reaches it.

Kueue (kueue.x-k8s.io) admits each stage's Job by itself: it alone sets `spec.suspend` of a Job that carries its queue
label, so whoever else wants the Job to stop sets `spec.active` of the Workload that Kueue keeps for it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api import names
from finetune_operator.core.identity import uid_of
from finetune_operator.core.observed import Manifest, Observed, condition
from finetune_operator.core.timestamps import seconds_between

DOMAIN = "kueue.x-k8s.io/"
QUEUE_LABEL = f"{DOMAIN}queue-name"
PATIENCE_SECONDS = 30.0
"""A queue manager that has not taken notice of a Job for so long probably never will."""


@dataclass(frozen=True)
class Admitted:
    """The queue lets the Job run."""


@dataclass(frozen=True)
class Queued:
    """The Job waits for the queue."""

    message: str


@dataclass(frozen=True)
class Deactivated:
    """The queue does not consider the Job any more, and only somebody's hand changes that."""

    message: str


Standing = Admitted | Queued | Deactivated


def queue_of(obj: Manifest) -> str:
    """Name of the queue that an object asks for; empty without one."""
    return (obj["metadata"].get("labels") or {}).get(QUEUE_LABEL) or ""


def passed_on(values: dict[str, str] | None) -> dict[str, str]:
    """Labels or annotations for the queue manager, such as queue, priority class and topology."""
    return {key: value for key, value in (values or {}).items() if key.startswith(DOMAIN)}


def workload_of(observed: Observed, job: Manifest) -> Manifest | None:
    """The queue manager's Workload for a stage's Job."""
    for workload in observed.workloads:
        references = workload["metadata"].get("ownerReferences") or []
        if any(reference.get("uid") == uid_of(job) for reference in references):
            return workload
    return None


def standing(job: Manifest, workload: Manifest | None, now: datetime) -> Standing:
    """How a stage's Job that carries a queue label stands with the queue."""
    queue = queue_of(job)
    if not job["spec"].get("suspend"):
        return Admitted()
    if workload is None:
        waited = seconds_between(job["metadata"]["creationTimestamp"], now)
        return Queued(_unnoticed(queue) if waited >= PATIENCE_SECONDS else f"queue {queue}: waiting")
    why = _why(workload)
    if _is_stopped(workload) and not _stopped_by_user(workload):
        name = workload["metadata"]["name"]
        return Deactivated(f"queue {queue}: deactivated: {why}; set spec.active of Workload {name} to true to go on")
    return Queued(f"queue {queue}: {why}")


def _unnoticed(queue: str) -> str:
    return (
        f"queue {queue}: no queue manager has taken notice of the Job; is Kueue installed, and does it manage Jobs in "
        f"this namespace? Without the label {QUEUE_LABEL} a new job starts at once"
    )


def _why(workload: Manifest) -> str:
    """The queue's own words: of a pending admission check, of the reservation that is missing, or of an eviction."""
    status = workload.get("status") or {}
    checks = [c for c in status.get("admissionChecks") or [] if c.get("state") != "Ready" and c.get("message")]
    if checks and condition(workload, "QuotaReserved"):
        return "; ".join(f"{check['name']}: {check['message']}" for check in checks)
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    reserved, evicted = conditions.get("QuotaReserved", {}), conditions.get("Evicted", {})
    if reserved.get("status") == "False" and reserved.get("message"):
        return str(reserved["message"])
    if evicted.get("status") == "True" and evicted.get("message"):
        return str(evicted["message"])
    return "waiting"


def wishes(
    finetunejob: Manifest, job: Manifest, workload: Manifest | None, *, suspend: bool
) -> list[tuple[Manifest, dict[str, Any]]]:
    """Objects and merge patches by which the queue learns what the user wants: to stop, to go on, another queue."""
    queue = queue_of(finetunejob)
    found: list[tuple[Manifest, dict[str, Any]]] = []
    if job["spec"].get("suspend") and queue not in ("", queue_of(job)):
        found.append((job, {"metadata": {"labels": {QUEUE_LABEL: queue}}}))
    if workload is None and suspend and not job["spec"].get("suspend"):
        found.append((job, {"spec": {"suspend": True}}))
    if workload is not None and suspend and not _is_stopped(workload):
        found.append((workload, _stopping(suspend=True)))
    if workload is not None and not suspend and _stopped_by_user(workload):
        found.append((workload, _stopping(suspend=False)))
    return found


def _is_stopped(workload: Manifest) -> bool:
    return (workload.get("spec") or {}).get("active") is False


def _stopped_by_user(workload: Manifest) -> bool:
    """Whether it was stopped for policy.suspend, and not by the queue manager or an administrator."""
    return names.ANNOTATION_SUSPENDED in (workload["metadata"].get("annotations") or {})


def _stopping(*, suspend: bool) -> dict[str, Any]:
    """Kueue's own switch, and a note on whose behalf it was turned."""
    return {
        "metadata": {"annotations": {names.ANNOTATION_SUSPENDED: "policy.suspend" if suspend else None}},
        "spec": {"active": not suspend},
    }
