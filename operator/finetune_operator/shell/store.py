"""The last seen objects: what the operator knows without asking.

Nothing older ever replaces anything newer, and what is gone stays gone, in whatever order events arrive. Absence here
proves nothing: who needs to believe it reads live.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from finetune_api import names
from finetune_operator.core.observed import Manifest
from finetune_operator.shell.cluster import Listing
from finetune_operator.shell.kinds import FINE_TUNE_JOB, UNWATCHED_CHILDREN, Kind


def uid_of(obj: Manifest) -> str:
    """uid of an object."""
    uid: str = obj["metadata"]["uid"]
    return uid


def version_of(obj: Manifest) -> int:
    """resourceVersion of an object; comparable between versions of one object and with a list's of the same kind."""
    return int(obj["metadata"]["resourceVersion"])


def job_uid_of(obj: Manifest) -> str:
    """uid of the FineTuneJob that an object is, or says by its label to belong to; empty when it says nothing."""
    if obj["kind"] == FINE_TUNE_JOB.name:
        return uid_of(obj)
    return str((obj["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID) or "")


class Store:
    """Objects by kind and uid, and children by the uid of their job."""

    def __init__(self) -> None:
        self._objects: defaultdict[str, dict[str, Manifest]] = defaultdict(dict)
        self._children: dict[str, dict[str, Manifest]] = {}
        self._gone: set[str] = set()
        self._gone_before: set[str] = set()

    def put(self, obj: Manifest) -> bool:
        """Keep an object unless it is gone or known in this or a newer version; tells whether anything changed."""
        uid = uid_of(obj)
        if uid in self._gone or uid in self._gone_before:
            return False
        known = self._objects[obj["kind"]].get(uid)
        if known is not None and version_of(known) >= version_of(obj):
            return False
        lean = _without_managed_fields(obj)
        self._unlink(known)
        self._objects[obj["kind"]][uid] = lean
        self._link(lean)
        return True

    def remove(self, kind: str, uid: str) -> Manifest | None:
        """Forget an object for good: a uid that was deleted never comes back."""
        self._gone.add(uid)
        known = self._objects[kind].pop(uid, None)
        self._unlink(known)
        if known is not None and kind == FINE_TUNE_JOB.name:
            self._forget_unwatched_children(uid)
        return known

    def job(self, uid: str) -> Manifest | None:
        """The FineTuneJob of that uid."""
        return self._objects[FINE_TUNE_JOB.name].get(uid)

    def jobs(self) -> list[Manifest]:
        """All FineTuneJobs."""
        return [*self._objects[FINE_TUNE_JOB.name].values()]

    def children(self, job: Manifest, *kinds: Kind) -> tuple[Manifest, ...]:
        """Objects of these kinds in the job's namespace that carry its uid."""
        wanted, namespace = {kind.name for kind in kinds}, job["metadata"]["namespace"]
        children = self._children.get(uid_of(job), {}).values()
        return tuple(c for c in children if c["kind"] in wanted and c["metadata"]["namespace"] == namespace)

    def sync(self, kind: Kind, namespace: str | None, listing: Listing) -> set[str]:
        """Bring a kind to what a live list says; returns the uids of the jobs about which anything changed."""
        known = [o for o in self._objects[kind.name].values() if namespace in (None, o["metadata"]["namespace"])]
        return self._adopt(known, listing)

    def sync_children(self, job: Manifest, kind: Kind, listing: Listing) -> None:
        """Bring the children of one job to what a live list of them says."""
        self._adopt(self.children(job, kind), listing)

    def age(self) -> None:
        """Forget about deletions before the last call: by now no late event can speak of them."""
        self._gone_before, self._gone = self._gone, set()

    def _adopt(self, known: Iterable[Manifest], listing: Listing) -> set[str]:
        changed = {job_uid_of(item) for item in listing.items if self.put(item)}
        listed = {uid_of(item) for item in listing.items}
        for obj in self._vanished(known, listed, listing.resource_version):
            self.remove(obj["kind"], uid_of(obj))
            changed.add(job_uid_of(obj))
        return changed - {""}

    @staticmethod
    def _vanished(known: Iterable[Manifest], listed: set[str], moment: int) -> Iterator[Manifest]:
        """An object that is newer than the list was created or changed after it, so its absence says nothing."""
        yield from (obj for obj in known if uid_of(obj) not in listed and version_of(obj) <= moment)

    def _link(self, obj: Manifest) -> None:
        if obj["kind"] != FINE_TUNE_JOB.name and (owner := job_uid_of(obj)):
            self._children.setdefault(owner, {})[uid_of(obj)] = obj

    def _unlink(self, obj: Manifest | None) -> None:
        if obj is None or obj["kind"] == FINE_TUNE_JOB.name:
            return
        siblings = self._children.get(job_uid_of(obj), {})
        siblings.pop(uid_of(obj), None)
        if not siblings:
            self._children.pop(job_uid_of(obj), None)

    def _forget_unwatched_children(self, job_uid: str) -> None:
        unwatched = {kind.name for kind in UNWATCHED_CHILDREN}
        for child in [c for c in self._children.get(job_uid, {}).values() if c["kind"] in unwatched]:
            self.remove(child["kind"], uid_of(child))


def _without_managed_fields(obj: Manifest) -> Manifest:
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}
