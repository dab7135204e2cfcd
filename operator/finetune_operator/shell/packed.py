"""An object as the operator keeps it: what is looked up as it is, what is only read when its job is looked at as bytes.

Ten thousand jobs as dictionaries would be three times as large, and every full garbage collection would walk them all.
"""

import pickle
from dataclasses import dataclass
from sys import intern

from finetune_api import names
from finetune_api.status import Phase
from finetune_operator.core.identity import uid_of
from finetune_operator.core.observed import Manifest, essence
from finetune_operator.core.pod_status import is_live
from finetune_operator.shell.kinds import FINE_TUNE_JOB, JOB, POD, WORKLOAD


def version_of(obj: Manifest) -> int:
    """resourceVersion of an object; comparable between versions of one object and with a list's of the same kind."""
    return int(obj["metadata"]["resourceVersion"])


def named_job(obj: Manifest) -> str:
    """uid of the FineTuneJob that an object is, or says by its label to belong to; empty when it says nothing."""
    if obj["kind"] == FINE_TUNE_JOB.name:
        return uid_of(obj)
    return str((obj["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID) or "")


def owning_jobs(obj: Manifest) -> tuple[str, ...]:
    """uids of the batch/v1 Jobs that own an object."""
    references = obj["metadata"].get("ownerReferences") or []
    return tuple(reference["uid"] for reference in references if reference.get("kind") == JOB.name)


@dataclass(frozen=True, slots=True)
class PackedObject:
    """The essence of one version of an object."""

    kind: str
    uid: str
    version: int
    namespace: str
    name: str
    job_uid: str
    """uid of the FineTuneJob that it is, or says by its label to belong to; empty when it says nothing."""
    owners: tuple[str, ...]
    """uids of the batch/v1 Jobs that own a Workload."""
    phase: str
    """Of a FineTuneJob."""
    has_ended: bool
    """Whether it is a pod whose containers have ended."""
    content: bytes
    """All but the version; equal bytes say the same."""

    def manifest(self) -> Manifest:
        """The object, to be read or changed by the caller alone."""
        obj: Manifest = pickle.loads(self.content)  # noqa: S301 - packed below, by this process
        obj["metadata"]["resourceVersion"] = str(self.version)
        return obj


def packed(obj: Manifest) -> PackedObject:
    """An object as it is kept."""
    lean = essence(obj)
    kind, metadata = lean["kind"], lean["metadata"]
    version = int(metadata.pop("resourceVersion"))
    return PackedObject(
        kind=intern(kind),
        uid=metadata["uid"],
        version=version,
        namespace=intern(metadata["namespace"]),
        name=metadata["name"],
        job_uid=intern(named_job(lean)),
        owners=owning_jobs(lean) if kind == WORKLOAD.name else (),
        phase=intern(_phase(lean)) if kind == FINE_TUNE_JOB.name else "",
        has_ended=kind == POD.name and not is_live(lean),
        content=pickle.dumps(lean, pickle.HIGHEST_PROTOCOL),
    )


def _phase(job: Manifest) -> str:
    return (job.get("status") or {}).get("phase") or Phase.PENDING.value
