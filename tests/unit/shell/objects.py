"""Small objects for tests of the shell, which looks at metadata only."""

from typing import Any

from finetune_api import names
from finetune_operator.core.identity import child_metadata
from finetune_operator.shell.kinds import kind_named

Object = dict[str, Any]


def make_job(uid: str = "u1", version: int = 1, name: str = "", namespace: str = "team", **status: Any) -> Object:
    """A FineTuneJob."""
    metadata = {"name": name or f"job-{uid}", "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    job: Object = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": {}}
    return job | ({"status": status} if status else {})


def child_manifest(job: Object, kind: str = "Job", name: str = "child") -> Object:
    """A child as the core would create it."""
    return {"apiVersion": kind_named(kind).api_version, "kind": kind, "metadata": child_metadata(job, name), "spec": {}}


def make_workload(owner: Object, uid: str = "w1", version: int = 1, **spec: Any) -> Object:
    """What Kueue keeps for a batch/v1 Job, with all that nobody here reads."""
    metadata = owner["metadata"]
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {
            "name": f"job-{metadata['name']}",
            "namespace": metadata["namespace"],
            "uid": uid,
            "resourceVersion": str(version),
            "ownerReferences": [reference],
        },
        "spec": {"podSets": [{"template": {"spec": {"containers": ["long"]}}}], **spec},
        "status": {"conditions": [{"type": "Admitted"}], "admission": {"podSetAssignments": ["long"]}},
    }


def make_child(job: Object, kind: str = "Job", uid: str = "c1", version: int = 1, name: str = "child") -> Object:
    """A child as the API server stores it."""
    child = child_manifest(job, kind, name)
    child["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    return child
