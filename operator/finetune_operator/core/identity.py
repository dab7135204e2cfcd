"""Names and ownership of children.

The same job, stage and attempt always give the same name, and the owner is proven by uid.
"""

import hashlib
from typing import Any

from finetune_api import names
from finetune_api.status import Stage
from finetune_operator.core.observed import Manifest

NAME_LIMIT = 57
"""A pod name is the Job's and six more characters, and a DNS label ends at 63."""


def uid_of(obj: Manifest) -> str:
    """uid of an object."""
    uid: str = obj["metadata"]["uid"]
    return uid


def child_name(job: Manifest, stage: Stage, attempt: int) -> str:
    """Name of the Job of a stage's attempt; a later FineTuneJob of the same name gets other names."""
    suffix = f"-{stage}-{attempt}-{_hash(uid_of(job), stage, str(attempt))}"
    head = job["metadata"]["name"].replace(".", "-")[: NAME_LIMIT - len(suffix)].rstrip("-")
    return f"{head}{suffix}"


def policy_name(job: Manifest, purpose: str) -> str:
    """Name of a NetworkPolicy of the job."""
    return f"{names.shortened(job['metadata']['name'], 200)}-{purpose}-{_hash(uid_of(job), purpose)}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:6]


def owner_reference(job: Manifest) -> dict[str, Any]:
    """The reference by which the garbage collector deletes children, also with the operator down."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job["metadata"]["name"],
        "uid": uid_of(job),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_by(child: Manifest, job: Manifest) -> bool:
    """Whether `job` is the controller of `child`."""
    references = child["metadata"].get("ownerReferences") or []
    return any(r.get("controller") and r.get("uid") == uid_of(job) for r in references)


def labels(job: Manifest, stage: Stage | None = None, attempt: int | None = None) -> dict[str, str]:
    """Labels of a child."""
    result = {
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_NAME: "finetune",
        names.LABEL_JOB_NAME: names.shortened(job["metadata"]["name"], 63),
        names.LABEL_JOB_UID: uid_of(job),
    }
    if stage is not None:
        result[names.LABEL_STAGE] = stage
        result[names.LABEL_COMPONENT] = stage
    if attempt is not None:
        result[names.LABEL_ATTEMPT] = str(attempt)
    return result


def child_metadata(job: Manifest, name: str, stage: Stage | None = None, attempt: int | None = None) -> dict[str, Any]:
    """Metadata of a child."""
    return {
        "name": name,
        "namespace": job["metadata"]["namespace"],
        "labels": labels(job, stage, attempt),
        "ownerReferences": [owner_reference(job)],
    }
