"""What the shell has seen of one FineTuneJob and its children, as plain Kubernetes objects."""

from dataclasses import dataclass, field
from typing import Any

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
    workloads: tuple[Manifest, ...] = ()
    """A queue manager's Workloads that belong to one of `jobs`."""
    report: ProgressReport | None = None
    """Last progress read from the running pod."""
    confirmed: bool = False
    """Whether everything above was read live, so that absence can be believed."""
    refusals: tuple[Refusal, ...] = field(default=())
