"""The last seen objects: what the operator knows without asking.

Nothing older ever replaces anything newer, and what is gone stays gone, in whatever order events arrive. Absence here
proves nothing: who needs to believe it reads live.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from finetune_api import names
from finetune_operator.core.observed import Manifest, essence
from finetune_operator.core.pod_status import is_live
from finetune_operator.shell.cluster import Listing
from finetune_operator.shell.kinds import FINE_TUNE_JOB, JOB, POD, UNWATCHED_CHILDREN, WORKLOAD, Kind


def uid_of(obj: Manifest) -> str:
    """uid of an object."""
    uid: str = obj["metadata"]["uid"]
    return uid


def version_of(obj: Manifest) -> int:
    """resourceVersion of an object; comparable between versions of one object and with a list's of the same kind."""
    return int(obj["metadata"]["resourceVersion"])


def _named_job(obj: Manifest) -> str:
    """uid of the FineTuneJob that an object is, or says by its label to belong to; empty when it says nothing."""
    if obj["kind"] == FINE_TUNE_JOB.name:
        return uid_of(obj)
    return str((obj["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID) or "")


def _owning_jobs(workload: Manifest) -> Iterator[str]:
    """uids of the batch/v1 Jobs that own a Workload."""
    for reference in workload["metadata"].get("ownerReferences") or []:
        if reference.get("kind") == JOB.name:
            yield reference["uid"]


class Store:
    """Objects by kind and uid, and children by the uid of their job."""

    def __init__(self) -> None:
        self._objects: defaultdict[str, dict[str, Manifest]] = defaultdict(dict)
        self._children: dict[str, dict[str, Manifest]] = {}
        self._workloads: dict[str, Manifest] = {}
        self._gone: set[str] = set()
        self._gone_before: set[str] = set()
        self._ended_pods: dict[str, list[Manifest]] = {}
        self._ended_pods_before: dict[str, list[Manifest]] = {}

    def put(self, obj: Manifest) -> bool:
        """Keep an object unless it is gone or known in this or a newer version; tells whether anything changed."""
        uid = uid_of(obj)
        if uid in self._gone or uid in self._gone_before:
            return False
        known = self._objects[obj["kind"]].get(uid)
        if known is not None and version_of(known) >= version_of(obj):
            return False
        lean = essence(obj)
        self._unlink(known)
        self._objects[obj["kind"]][uid] = lean
        self._link(lean)
        return known is None or not _same(known, lean)

    def remove(self, kind: str, uid: str, last: Manifest | None = None) -> Manifest | None:
        """Forget an object for good: a uid that was deleted never comes back.

        A pod that has ended stays among its job's pods for a while, as it was at the last: the Job controller lets go
        of a pod before it says that the Job has failed, and why is to be read in the pod alone.
        """
        self._gone.add(uid)
        known = self._objects[kind].pop(uid, None)
        self._unlink(known)
        end = essence(last) if last is not None else known
        if kind == POD.name and end is not None and not is_live(end):
            self._ended_pods.setdefault(_named_job(end), []).append(end)
        if known is not None and kind == FINE_TUNE_JOB.name:
            self._forget_unwatched_children(uid)
        return known

    def job(self, uid: str) -> Manifest | None:
        """The FineTuneJob of that uid."""
        return self._objects[FINE_TUNE_JOB.name].get(uid)

    def jobs(self) -> list[Manifest]:
        """All FineTuneJobs."""
        return [*self._objects[FINE_TUNE_JOB.name].values()]

    def named(self, namespace: str, name: str) -> Manifest | None:
        """The FineTuneJob of that name; None without a name."""
        if not name:
            return None
        wanted = {"namespace": namespace, "name": name}
        return next((job for job in self.jobs() if wanted.items() <= job["metadata"].items()), None)

    def children(self, job: Manifest, *kinds: Kind) -> tuple[Manifest, ...]:
        """Objects of these kinds in the job's namespace that carry its uid."""
        wanted, namespace = {kind.name for kind in kinds}, job["metadata"]["namespace"]
        uid = uid_of(job)
        present, ended = self._children.get(uid, {}).values(), self._ended_pods.get(uid, ())
        known = (*present, *ended, *self._ended_pods_before.get(uid, ()))
        return tuple(c for c in known if c["kind"] in wanted and c["metadata"]["namespace"] == namespace)

    def workloads(self, jobs: Iterable[Manifest]) -> tuple[Manifest, ...]:
        """Workloads that a queue manager keeps for these batch/v1 Jobs."""
        return tuple(self._workloads[uid_of(job)] for job in jobs if uid_of(job) in self._workloads)

    def job_uid_of(self, obj: Manifest) -> str:
        """uid of the FineTuneJob that an object is or belongs to; empty when that is not known."""
        if obj["kind"] != WORKLOAD.name:
            return _named_job(obj)
        jobs = (self._objects[JOB.name].get(uid) for uid in _owning_jobs(obj))
        return next((_named_job(job) for job in jobs if job is not None), "")

    def sync(self, kind: Kind, namespace: str | None, listing: Listing) -> set[str]:
        """Bring a kind to what a live list says; returns the uids of the jobs about which anything changed."""
        known = [o for o in self._objects[kind.name].values() if namespace in (None, o["metadata"]["namespace"])]
        return self._adopt(known, listing)

    def sync_children(self, job: Manifest, kind: Kind, listing: Listing) -> None:
        """Bring the children of one job to what a live list of them says."""
        present = self._children.get(uid_of(job), {}).values()
        self._adopt([child for child in present if child["kind"] == kind.name], listing)

    def age(self) -> None:
        """Forget about deletions before the last call: by now no late event can speak of them."""
        self._gone_before, self._gone = self._gone, set()
        self._ended_pods_before, self._ended_pods = self._ended_pods, {}

    def _adopt(self, known: Iterable[Manifest], listing: Listing) -> set[str]:
        changed = {self.job_uid_of(item) for item in listing.items if self.put(item)}
        listed = {uid_of(item) for item in listing.items}
        for obj in self._vanished(known, listed, listing.resource_version):
            self.remove(obj["kind"], uid_of(obj))
            changed.add(self.job_uid_of(obj))
        return changed - {""}

    @staticmethod
    def _vanished(known: Iterable[Manifest], listed: set[str], moment: int) -> Iterator[Manifest]:
        """An object that is newer than the list was created or changed after it, so its absence says nothing."""
        yield from (obj for obj in known if uid_of(obj) not in listed and version_of(obj) <= moment)

    def _link(self, obj: Manifest) -> None:
        if obj["kind"] == WORKLOAD.name:
            self._workloads |= dict.fromkeys(_owning_jobs(obj), obj)
        elif obj["kind"] != FINE_TUNE_JOB.name and (owner := _named_job(obj)):
            self._children.setdefault(owner, {})[uid_of(obj)] = obj

    def _unlink(self, obj: Manifest | None) -> None:
        if obj is None or obj["kind"] == FINE_TUNE_JOB.name:
            return
        if obj["kind"] == WORKLOAD.name:
            for owner in _owning_jobs(obj):
                self._workloads.pop(owner, None)
            return
        siblings = self._children.get(_named_job(obj), {})
        siblings.pop(uid_of(obj), None)
        if not siblings:
            self._children.pop(_named_job(obj), None)

    def _forget_unwatched_children(self, job_uid: str) -> None:
        unwatched = {kind.name for kind in UNWATCHED_CHILDREN}
        for child in [c for c in self._children.get(job_uid, {}).values() if c["kind"] in unwatched]:
            self.remove(child["kind"], uid_of(child))


def _same(one: Manifest, other: Manifest) -> bool:
    """Whether two versions of an object say the same."""
    return _without_version(one) == _without_version(other)


def _without_version(obj: Manifest) -> Manifest:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": ""}}
