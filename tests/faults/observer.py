"""Eyes of their own on the API server: what every namespace holds, and whether what must always hold ever did not.

It watches directly, never through a gateway; what a gateway hides from an operator is seen here.
"""

import http.client
import json
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from apiserver.team import PATHS, Object
from finetune_api import names
from finetune_api.status import Phase
from local_cluster.control_plane import ControlPlane

WATCHED = ("finetunejobs", "jobs", "pods", "persistentvolumeclaims", "networkpolicies")
CHILDREN = WATCHED[1:]


class Observer:
    """The objects of all namespaces as of now, and the broken invariants of each namespace."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._lock = threading.Lock()
        self._objects: dict[str, dict[str, dict[str, Object]]] = defaultdict(lambda: defaultdict(dict))
        self._broken: dict[str, list[str]] = defaultdict(list)
        self._judge = _Invariants()
        self._stopped = False
        self._threads = [threading.Thread(target=self._follow, args=(r,), daemon=True) for r in WATCHED]

    def __enter__(self) -> "Observer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    def all(self, namespace: str, resource: str) -> list[Object]:
        """Objects of one kind in one namespace."""
        with self._lock:
            return [*self._objects[namespace][resource].values()]

    def job(self, namespace: str, name: str) -> Object:
        """A FineTuneJob; empty when there is none."""
        jobs = self.all(namespace, "finetunejobs")
        return next((job for job in jobs if job["metadata"]["name"] == name), {})

    def children(self, namespace: str) -> list[str]:
        """resource/name of everything that says it belongs to a FineTuneJob."""
        return [
            f"{resource}/{obj['metadata']['name']}"
            for resource in CHILDREN
            for obj in self.all(namespace, resource)
            if names.LABEL_JOB_UID in (obj["metadata"].get("labels") or {})
        ]

    def broken(self, namespace: str) -> list[str]:
        """Invariants that did not hold at some moment."""
        with self._lock:
            return [*self._broken[namespace]]

    def _follow(self, resource: str) -> None:
        while not self._stopped:
            try:
                self._list_and_watch(resource)
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                time.sleep(0.2)  # the API server is disturbed on purpose; its truth is read again

    def _list_and_watch(self, resource: str) -> None:
        path = f"{PATHS[resource]}/{resource}"
        listed = json.loads(b"".join(self._lines(path)))
        self._replace(resource, listed["items"])
        version = listed["metadata"]["resourceVersion"]
        for line in self._lines(f"{path}?watch=1&resourceVersion={version}&allowWatchBookmarks=true"):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            if event["type"] != "BOOKMARK":
                self._put(resource, event["type"], event["object"])

    def _lines(self, path: str) -> Iterator[bytes]:
        pki, port = self._plane.settings.pki, self._plane.settings.ports["kube-apiserver"]
        tls = ssl.create_default_context(cafile=str(pki.certificate("ca")))
        tls.load_cert_chain(pki.certificate("admin"), pki.key("admin"))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=90, context=tls)
        try:
            connection.request("GET", path)
            yield from connection.getresponse()
        finally:
            connection.close()

    def _replace(self, resource: str, items: list[Object]) -> None:
        with self._lock:
            for shelves in self._objects.values():
                shelves[resource].clear()
        for item in items:
            self._put(resource, "MODIFIED", item)

    def _put(self, resource: str, event: str, obj: Object) -> None:
        namespace, uid = obj["metadata"]["namespace"], obj["metadata"]["uid"]
        with self._lock:
            shelf = self._objects[namespace][resource]
            if event == "DELETED":
                shelf.pop(uid, None)
            else:
                shelf[uid] = obj
            for found in self._judge.look(resource, obj, [*shelf.values()]):
                if found not in self._broken[namespace]:
                    self._broken[namespace].append(found)


class _Invariants:
    """What must hold after every single change of any object."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}

    def look(self, resource: str, obj: Object, siblings: list[Object]) -> Iterator[str]:
        if resource == "finetunejobs":
            yield from self._job(obj)
        elif names.LABEL_JOB_UID in (obj["metadata"].get("labels") or {}):
            yield from _owned(resource, obj)
        if resource == "pods":
            yield from _alone(obj, siblings)

    def _job(self, job: Object) -> Iterator[str]:
        status, uid = job.get("status") or {}, job["metadata"]["uid"]
        before = self._seen.get(uid, {})
        for counter in ("count", "disruptions"):
            old, new = _attempts(before, counter), _attempts(status, counter)
            if new < old:
                yield f"attempts.{counter} fell from {old} to {new}"
        for child in status.get("children") or []:
            old = _attempt_of(before, child["stage"])
            if child["attempt"] < old:
                yield f"the attempt of {child['stage']} fell from {old} to {child['attempt']}"
        phase = before.get("phase")
        if phase and Phase(phase).terminal and status.get("phase") != phase:
            yield f"the terminal phase {phase} became {status.get('phase')}"
        self._seen[uid] = status


def _attempts(status: dict[str, Any], counter: str) -> int:
    return int((status.get("attempts") or {}).get(counter) or 0)


def _attempt_of(status: dict[str, Any], stage: str) -> int:
    return next((int(c["attempt"]) for c in status.get("children") or [] if c["stage"] == stage), 0)


def _owned(resource: str, obj: Object) -> Iterator[str]:
    references = obj["metadata"].get("ownerReferences") or []
    if not any(reference.get("controller") for reference in references):
        yield f"{resource}/{obj['metadata']['name']} has no owner"


def _alone(pod: Object, pods: list[Object]) -> Iterator[str]:
    uid = (pod["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID)
    live = [
        other["metadata"]["name"]
        for other in pods
        if (other["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID) == uid
        and (other.get("status") or {}).get("phase") in ("Pending", "Running")
    ]
    if uid and len(live) > 1:
        yield f"two live stage pods at once: {sorted(live)}"
