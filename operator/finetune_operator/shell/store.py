"""The last seen objects: what the operator knows without asking.

Nothing older ever replaces anything newer, and what is gone stays gone, in whatever order events arrive. Absence here
proves nothing: who needs to believe it reads live.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from finetune_operator.core.identity import uid_of
from finetune_operator.core.observed import Manifest
from finetune_operator.shell.cluster import Listing
from finetune_operator.shell.kinds import FINE_TUNE_JOB, JOB, UNWATCHED_CHILDREN, WORKLOAD, Kind
from finetune_operator.shell.packed import PackedObject, named_job, owning_jobs, packed, version_of


class Store:
    """Objects by kind and uid, and children by the uid of their job."""

    def __init__(self) -> None:
        self._objects: defaultdict[str, dict[str, PackedObject]] = defaultdict(dict)
        self._children: dict[str, dict[str, PackedObject]] = {}
        self._workloads: dict[str, PackedObject] = {}
        self._gone: set[str] = set()
        self._gone_before: set[str] = set()
        self._ended_pods: dict[str, list[PackedObject]] = {}
        self._ended_pods_before: dict[str, list[PackedObject]] = {}

    def put(self, obj: Manifest) -> bool:
        """Keep an object unless it is gone or known in this or a newer version; tells whether anything changed."""
        return self._is_newer(obj["kind"], uid_of(obj), version_of(obj)) and self._keep(packed(obj))

    def _is_newer(self, kind: str, uid: str, version: int) -> bool:
        if uid in self._gone or uid in self._gone_before:
            return False
        known = self._objects[kind].get(uid)
        return known is None or known.version < version

    def _keep(self, obj: PackedObject) -> bool:
        known = self._objects[obj.kind].get(obj.uid)
        self._unlink(known)
        self._objects[obj.kind][obj.uid] = obj
        self._link(obj)
        return known is None or known.content != obj.content

    def remove(self, kind: str, uid: str, last: Manifest | None = None) -> None:
        """Forget an object for good: a uid that was deleted never comes back.

        A pod that has ended stays among its job's pods for a while, as it was at the last: the Job controller lets go
        of a pod before it says that the Job has failed, and why is to be read in the pod alone.
        """
        self._gone.add(uid)
        known = self._objects[kind].pop(uid, None)
        self._unlink(known)
        end = packed(last) if last is not None else known
        if end is not None and end.has_ended:
            self._ended_pods.setdefault(end.job_uid, []).append(end)
        if known is not None and kind == FINE_TUNE_JOB.name:
            self._forget_unwatched_children(uid)

    def job(self, uid: str) -> Manifest | None:
        """The FineTuneJob of that uid."""
        found = self._objects[FINE_TUNE_JOB.name].get(uid)
        return found.manifest() if found else None

    def job_uids(self) -> list[str]:
        """uids of all FineTuneJobs."""
        return [*self._objects[FINE_TUNE_JOB.name]]

    def phases(self) -> Iterator[str]:
        """Phase of each FineTuneJob."""
        return (job.phase for job in self._objects[FINE_TUNE_JOB.name].values())

    def named(self, namespace: str, name: str) -> Manifest | None:
        """The FineTuneJob of that name; None without a name."""
        if not name:
            return None
        jobs = self._objects[FINE_TUNE_JOB.name].values()
        return next((job.manifest() for job in jobs if (job.namespace, job.name) == (namespace, name)), None)

    def children(self, job: Manifest, *kinds: Kind) -> tuple[Manifest, ...]:
        """Objects of these kinds in the job's namespace that carry its uid."""
        wanted, namespace = {kind.name for kind in kinds}, job["metadata"]["namespace"]
        uid = uid_of(job)
        present, ended = self._children.get(uid, {}).values(), self._ended_pods.get(uid, ())
        known = (*present, *ended, *self._ended_pods_before.get(uid, ()))
        return tuple(c.manifest() for c in known if c.kind in wanted and c.namespace == namespace)

    def workloads(self, jobs: Iterable[Manifest]) -> tuple[Manifest, ...]:
        """Workloads that a queue manager keeps for these batch/v1 Jobs."""
        return tuple(self._workloads[uid_of(job)].manifest() for job in jobs if uid_of(job) in self._workloads)

    def job_uid_of(self, obj: Manifest) -> str:
        """uid of the FineTuneJob that an object is or belongs to; empty when that is not known."""
        return self._job_uid(obj["kind"], named_job(obj), owning_jobs(obj))

    def _job_uid(self, kind: str, named: str, owners: Iterable[str]) -> str:
        if kind != WORKLOAD.name:
            return named
        jobs = (self._objects[JOB.name].get(uid) for uid in owners)
        return next((job.job_uid for job in jobs if job is not None), "")

    def sync(self, kind: Kind, namespace: str | None, listing: Listing) -> set[str]:
        """Bring a kind to what a live list says; returns the uids of the jobs about which anything changed."""
        known = [obj for obj in self._objects[kind.name].values() if namespace in (None, obj.namespace)]
        return self._adopt(known, listing)

    def sync_children(self, job: Manifest, kind: Kind, listing: Listing) -> None:
        """Bring the children of one job to what a live list of them says."""
        present = self._children.get(uid_of(job), {}).values()
        self._adopt([child for child in present if child.kind == kind.name], listing)

    def age(self) -> None:
        """Forget about deletions before the last call: by now no late event can speak of them."""
        self._gone_before, self._gone = self._gone, set()
        self._ended_pods_before, self._ended_pods = self._ended_pods, {}

    def _adopt(self, known: Iterable[PackedObject], listing: Listing) -> set[str]:
        newer = [item for item in listing.items if self._is_newer(item.kind, item.uid, item.version)]
        changed = [item for item in newer if self._keep(item)]
        vanished = [*_vanished(known, {item.uid for item in listing.items}, listing.resource_version)]
        for obj in vanished:
            self.remove(obj.kind, obj.uid)
        return {self._job_uid(obj.kind, obj.job_uid, obj.owners) for obj in (*changed, *vanished)} - {""}

    def _link(self, obj: PackedObject) -> None:
        if obj.kind == WORKLOAD.name:
            self._workloads |= dict.fromkeys(obj.owners, obj)
        elif obj.kind != FINE_TUNE_JOB.name and obj.job_uid:
            self._children.setdefault(obj.job_uid, {})[obj.uid] = obj

    def _unlink(self, obj: PackedObject | None) -> None:
        if obj is None or obj.kind == FINE_TUNE_JOB.name:
            return
        if obj.kind == WORKLOAD.name:
            for owner in obj.owners:
                self._workloads.pop(owner, None)
            return
        siblings = self._children.get(obj.job_uid, {})
        siblings.pop(obj.uid, None)
        if not siblings:
            self._children.pop(obj.job_uid, None)

    def _forget_unwatched_children(self, job_uid: str) -> None:
        unwatched = {kind.name for kind in UNWATCHED_CHILDREN}
        for child in [c for c in self._children.get(job_uid, {}).values() if c.kind in unwatched]:
            self.remove(child.kind, child.uid)


def _vanished(known: Iterable[PackedObject], listed: set[str], moment: int) -> Iterator[PackedObject]:
    """An object that is newer than the list was created or changed after it, so its absence says nothing."""
    return (obj for obj in known if obj.uid not in listed and obj.version <= moment)
