"""What the shell has seen of one FineTuneJob and its children, as plain Kubernetes objects."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from finetune_api import names
from finetune_api.contract import ProgressReport

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True)
class Refusal:
    """A create that the API server refused, from the last execution of a plan."""

    kind: str
    name: str
    reason: str
    """`AlreadyExists` when an object of that name belongs to somebody else, else the API server's Status reason."""
    message: str


@dataclass(frozen=True)
class Observed:
    """One job and what belongs to it."""

    job: Manifest
    """The FineTuneJob."""
    jobs: tuple[Manifest, ...] = ()
    """batch/v1 Jobs labelled with the job's uid."""
    pods: tuple[Manifest, ...] = ()
    """Pods labelled with the job's uid."""
    others: tuple[Manifest, ...] = ()
    """PersistentVolumeClaims and NetworkPolicies labelled with the job's uid."""
    parent: Manifest | None = None
    """The FineTuneJob that a job:// source names, while what it publishes is still to be looked up."""
    workloads: tuple[Manifest, ...] = ()
    """A queue manager's Workloads that belong to one of `jobs`."""
    report: ProgressReport | None = None
    """Last progress read from the running pod."""
    confirmed: bool = False
    """Whether everything above was read live, so that absence can be believed."""
    refusals: tuple[Refusal, ...] = field(default=())


def condition(obj: Manifest, kind: str) -> dict[str, Any] | None:
    """The condition of type `kind` with status True."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == "True"), None)


_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "ownerReferences",
)
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def essence(obj: Manifest) -> Manifest:
    """The part of an object that is ever read here: a tenth of a pod, and what changes elsewhere in it is no news."""
    kind = obj["kind"]
    metadata = {key: obj["metadata"][key] for key in _METADATA if key in obj["metadata"]}
    if kind in (names.KIND, "Workload"):
        annotations = obj["metadata"].get("annotations") or {}
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
    lean = {"apiVersion": obj["apiVersion"], "kind": kind, "metadata": metadata}
    if part := _PARTS.get(kind):
        spec, status = part(obj.get("spec") or {}, obj.get("status") or {})
        lean |= {"spec": spec, "status": status}
    return lean


def _some(document: Manifest, *keys: str) -> Manifest:
    return {key: document[key] for key in keys if key in document}


def _containers(spec: Manifest) -> Manifest:
    return {"containers": [_some(container, "name", "resources") for container in spec.get("containers") or []]}


_POD_STATUS = ("phase", "reason", "message", "startTime", "podIP", "conditions", "containerStatuses")
_PARTS: dict[str, Callable[[Manifest, Manifest], tuple[Manifest, Manifest]]] = {
    names.KIND: lambda spec, status: (spec, status),
    "Job": lambda spec, status: (_some(spec, "suspend"), _some(status, "conditions")),
    "Pod": lambda spec, status: (_containers(spec), _some(status, *_POD_STATUS)),
    "Workload": lambda spec, status: (_some(spec, "active"), _some(status, "conditions", "admissionChecks")),
}
"""Spec and status of the kinds of which more than the metadata is read."""
