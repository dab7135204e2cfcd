"""An API server in memory, with versions, uids, preconditions and faults on demand; for tests of what calls it."""

import copy
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from builders import merged
from finetune_operator.core.actions import Deletion, Event, Patch
from finetune_operator.shell.cluster import Listing, ReadLimits
from finetune_operator.shell.errors import AlreadyExistsError, ConflictError, NotFoundError
from finetune_operator.shell.kinds import Kind
from finetune_operator.shell.packed import packed

Object = dict[str, Any]


class InMemoryCluster:
    """Implements the Cluster protocol; `calls` are what was asked, `faults` are raised instead of the next answers."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.events: list[Event] = []
        self.calls: list[str] = []
        self.faults: dict[str, list[Exception]] = {}
        self.pod_answers: dict[str, bytes] = {}
        self.in_flight: Callable[[str], Awaitable[None]] = _at_once
        """Called with the kind of each create before it is answered."""
        self._versions = itertools.count(100)

    def seed(self, obj: Object) -> Object:
        """Somebody else creates or changes an object."""
        stored = copy.deepcopy(obj)
        stored["metadata"].setdefault("uid", f"uid-{next(self._versions)}")
        self._store(stored)
        return copy.deepcopy(stored)

    def drop(self, obj: Object) -> None:
        """Somebody else deletes an object."""
        del self.objects[_key(obj)]

    def fail(self, call: str, *errors: Exception) -> None:
        """Raise these instead of answering the next calls, as in `fail("create Job", ForbiddenError(...))`."""
        self.faults.setdefault(call, []).extend(errors)

    @property
    def writes(self) -> list[str]:
        return [c for c in self.calls if not c.startswith(("get", "list", "read"))]

    async def list_all(self, kind: Kind, namespace: str | None, selector: str = "") -> Listing:
        self._called("list", kind.name)
        key, _, value = selector.partition("=")
        items = [
            packed(o)
            for (k, n, _), o in self.objects.items()
            if k == kind.name and namespace in (None, n) and _matches(o, key, value)
        ]
        return Listing(items, next(self._versions))

    async def serves(self, kind: Kind) -> bool:
        self._called("discover", kind.name)
        return any(known == kind.name for known, _, _ in self.objects)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        self._called("get", kind.name)
        return copy.deepcopy(self._find((kind.name, namespace, name)))

    async def create(self, manifest: Object) -> Object:
        self._called("create", manifest["kind"])
        await self.in_flight(manifest["kind"])
        if _key(manifest) in self.objects:
            raise AlreadyExistsError(f"{manifest['metadata']['name']} already exists", code=409, reason="AlreadyExists")
        return self.seed(manifest)

    async def replace(self, manifest: Object) -> Object:
        self._called("update", manifest["kind"])
        self._expect(manifest)
        return self._store(copy.deepcopy(manifest))

    async def replace_status(self, job: Object, status: Object) -> Object:
        self._called("update", f"{job['kind']}/status")
        stored = self._expect(job)
        return self._store({**stored, "status": copy.deepcopy(status)})

    async def patch(self, namespace: str, patch: Patch) -> Object:
        self._called("patch", patch.kind)
        stored = copy.deepcopy(self._find((patch.kind, namespace, patch.name)))
        stored = merged(stored, patch.body)
        return self._store(stored)

    async def delete(self, deletion: Deletion) -> Object | None:
        self._called("delete", deletion.kind)
        stored = self._find((deletion.kind, deletion.namespace, deletion.name))
        if stored["metadata"]["uid"] != deletion.uid:
            raise ConflictError("another uid", code=409)
        self.drop(stored)
        return None

    async def create_event(self, job: Object, event: Event) -> None:  # noqa: ARG002 - the protocol's signature
        self._called("create", "Event")
        self.events.append(event)

    async def read_pod(self, namespace: str, pod: str, port: int, path: str, limits: ReadLimits) -> bytes:
        self._called("read", f"{namespace}/{pod}:{port}{path} within {limits.size} bytes")
        if pod not in self.pod_answers:
            raise NotFoundError(f"no pod {pod}", code=404)
        return self.pod_answers[pod]

    def _called(self, verb: str, what: str) -> None:
        self.calls.append(f"{verb} {what}")
        if faults := self.faults.get(f"{verb} {what}"):
            raise faults.pop(0)

    def _find(self, key: tuple[str, str, str]) -> Object:
        if key not in self.objects:
            raise NotFoundError(f"{key} not found", code=404, reason="NotFound")
        return self.objects[key]

    def _expect(self, obj: Object) -> Object:
        stored = self._find(_key(obj))
        for field in ("uid", "resourceVersion"):
            if stored["metadata"][field] != obj["metadata"][field]:
                raise ConflictError(f"another {field}", code=409, reason="Conflict")
        return stored

    def _store(self, obj: Object) -> Object:
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(next(self._versions))}
        self.objects[_key(obj)] = obj
        return copy.deepcopy(obj)


def _key(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]


def _matches(obj: Object, key: str, value: str) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return not key or (key in labels and value in ("", labels[key]))


async def _at_once(_kind: str) -> None:
    """Nothing is waited for."""
