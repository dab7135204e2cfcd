"""The workspace: one claim for scratch, checkpoints and results, owned by the job unless the user named one."""

from finetune_api import names
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.core.identity import child_metadata
from finetune_operator.core.observed import Manifest


def workspace_claim_name(job: Manifest, spec: FineTuneJobSpec) -> str:
    """Name of the claim that every stage mounts as its workspace."""
    return spec.output.workspace.claim_name or names.workspace_claim(job["metadata"]["name"])


def workspace_claim(job: Manifest, spec: FineTuneJobSpec) -> Manifest | None:
    """The claim to create, or None when the user named one."""
    workspace = spec.output.workspace
    if workspace.claim_name:
        return None
    claim: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": child_metadata(job, workspace_claim_name(job, spec)),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": workspace.size}}},
    }
    if workspace.storage_class_name:
        claim["spec"]["storageClassName"] = workspace.storage_class_name
    return claim
