"""The kinds of objects that the operator touches, and where the API server keeps them."""

from dataclasses import dataclass

from finetune_api import names


@dataclass(frozen=True)
class Kind:
    """A kind of namespaced objects."""

    api_version: str
    name: str
    plural: str

    @property
    def group(self) -> str:
        """API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """API version without the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """URL path of the collection (of all namespaces when `namespace` is None), of an object or of a part of it."""
        root = "apis" if self.group else "api"
        parts = [root, self.api_version, *(("namespaces", namespace) if namespace else ()), self.plural]
        return "/" + "/".join([*parts, *((name,) if name else ()), *((subresource,) if subresource else ())])


FINE_TUNE_JOB = Kind(names.API_VERSION, names.KIND, names.PLURAL)
JOB = Kind("batch/v1", "Job", "jobs")
POD = Kind("v1", "Pod", "pods")
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
EVENT = Kind("events.k8s.io/v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
WORKLOAD = Kind("kueue.x-k8s.io/v1beta2", "Workload", "workloads")
"""Kueue's record of a queued Job; read where Kueue is installed."""

WATCHED = (FINE_TUNE_JOB, JOB, POD)
"""Kinds that are cached; children of these carry the uid of their FineTuneJob as a label."""
UNWATCHED_CHILDREN = (CLAIM, NETWORK_POLICY)
"""Kinds of children that are read only when a decision rests on them."""

_BY_NAME = {k.name: k for k in (*WATCHED, *UNWATCHED_CHILDREN, EVENT, LEASE, WORKLOAD)}


def kind_named(name: str) -> Kind:
    """The kind of that name; KeyError for one that the operator does not know."""
    return _BY_NAME[name]


def selector_of(kind: Kind) -> str:
    """Label selector with which a kind is watched and listed: children are those with a job's uid."""
    return names.LABEL_JOB_UID if kind in (JOB, POD) else ""
