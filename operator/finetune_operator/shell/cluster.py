"""What the operator asks of the API server, and the one module that asks it (beside kopf's watches).

Objects go in and out as plain dictionaries. Failures are the errors of `errors.py`, and nothing is tried twice here.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp

from finetune_api import names
from finetune_operator.core.actions import Deletion, Event, Patch
from finetune_operator.core.observed import Manifest
from finetune_operator.shell.connection import Connection
from finetune_operator.shell.errors import GoneError, NotFoundError, UnavailableError, error_of
from finetune_operator.shell.kinds import EVENT, FINE_TUNE_JOB, POD, Kind, kind_named
from finetune_operator.shell.packed import PackedObject, packed

PAGE_SIZE = 500
"""Objects per page of a list."""
NOTE_LIMIT = 1024
"""Bytes of an Event's note."""
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

Observer = Callable[[str, str, int], None]
"""Called with verb, resource and HTTP status (0 without an answer) after each request."""


@dataclass(frozen=True)
class Listing:
    """All objects of a kind at one moment."""

    items: list[PackedObject]
    """Thousands of whole objects would be the operator's peak of memory."""
    resource_version: int


@dataclass(frozen=True)
class ReadLimits:
    """How much of a stage pod's answer is waited for."""

    seconds: float
    size: int
    """Bytes."""


class Cluster(Protocol):
    """The API server, as far as the operator needs it."""

    async def list_all(self, kind: Kind, namespace: str | None, selector: str = "") -> Listing:
        """All objects of a kind, of one namespace or (None) of every one."""
        ...

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows the kind."""
        ...

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """The object as it is now."""
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; returns it as stored."""
        ...

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object that still has the uid and resourceVersion of `manifest`."""
        ...

    async def replace_status(self, job: Manifest, status: Manifest) -> Manifest:
        """Make `status` the whole status of a FineTuneJob that still has the uid and resourceVersion of `job`."""
        ...

    async def patch(self, namespace: str, patch: Patch) -> Manifest:
        """Merge a patch into an object that still has the uid of `patch`."""
        ...

    async def delete(self, deletion: Deletion) -> Manifest | None:
        """Delete an object that still has the uid of `deletion`; returns it when it is only marked so far."""
        ...

    async def create_event(self, job: Manifest, event: Event) -> None:
        """Tell people about a FineTuneJob."""
        ...

    async def read_pod(self, namespace: str, pod: str, port: int, path: str, limits: ReadLimits) -> bytes:
        """GET from a pod through the API server's proxy."""
        ...


class KubernetesCluster:
    """`Cluster` over HTTP. Every write first passes `fence`, which raises when another replica may write."""

    def __init__(
        self,
        connection: Connection,
        *,
        timeout: float,
        fence: Callable[[], None] = lambda: None,
        observe: Observer = lambda _verb, _resource, _code: None,
        instance: str = names.FIELD_MANAGER,
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._fence = fence
        self._observe = observe
        self._instance = instance

    async def list_all(self, kind: Kind, namespace: str | None, selector: str = "") -> Listing:
        """All objects, page by page; starts over once when the pages have become too old."""
        try:
            return await self._list_pages(kind, namespace, selector)
        except GoneError:
            return await self._list_pages(kind, namespace, selector)

    async def _list_pages(self, kind: Kind, namespace: str | None, selector: str) -> Listing:
        items: list[PackedObject] = []
        query = (("limit", str(PAGE_SIZE)), *((("labelSelector", selector),) if selector else ()))
        page_query = query
        while True:
            page = await self._request(_Request("list", kind, kind.path(namespace), query=page_query))
            named = {"apiVersion": kind.api_version, "kind": kind.name}
            items += [packed(named | item) for item in page.get("items") or []]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return Listing(items, int(metadata["resourceVersion"]))
            page_query = (*query, ("continue", metadata["continue"]))

    async def serves(self, kind: Kind) -> bool:
        """By discovery, which every account may read."""
        try:
            resources = await self._request(_Request("get", kind, f"/apis/{kind.api_version}"))
        except NotFoundError:
            return False
        return any(resource["name"] == kind.plural for resource in resources["resources"])

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """The object as it is now."""
        return await self._request(_Request("get", kind, kind.path(namespace, name)))

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; returns it as stored."""
        kind = kind_named(manifest["kind"])
        return await self._write(_Request("create", kind, kind.path(manifest["metadata"]["namespace"]), manifest))

    async def replace(self, manifest: Manifest) -> Manifest:
        """PUT with the manifest's own uid and resourceVersion as preconditions."""
        kind, metadata = kind_named(manifest["kind"]), manifest["metadata"]
        return await self._write(_Request("update", kind, kind.path(metadata["namespace"], metadata["name"]), manifest))

    async def replace_status(self, job: Manifest, status: Manifest) -> Manifest:
        """PUT, measured to cost the API server less than a merge patch or an apply; what is left out is gone."""
        metadata = {key: job["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
        document = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": metadata,
            "status": status,
        }
        path = FINE_TUNE_JOB.path(metadata["namespace"], metadata["name"], "status")
        return await self._write(_Request("update", FINE_TUNE_JOB, path, document, part="status"))

    async def patch(self, namespace: str, patch: Patch) -> Manifest:
        """The uid in the patch makes the API server refuse it for any other object of that name."""
        kind = kind_named(patch.kind)
        body = {**patch.body, "metadata": {**patch.body.get("metadata", {}), "uid": patch.uid}}
        path = kind.path(namespace, patch.name)
        return await self._write(_Request("patch", kind, path, body, content_type=MERGE_PATCH))

    async def delete(self, deletion: Deletion) -> Manifest | None:
        """Delete with the uid as precondition."""
        kind = kind_named(deletion.kind)
        options = {"propagationPolicy": deletion.propagation, "preconditions": {"uid": deletion.uid}}
        answer = await self._write(_Request("delete", kind, kind.path(deletion.namespace, deletion.name), options))
        return answer if answer.get("kind") == deletion.kind else None

    async def create_event(self, job: Manifest, event: Event) -> None:
        """A new Event object."""
        await self._write(_Request("create", EVENT, EVENT.path(job["metadata"]["namespace"]), self._event(job, event)))

    def _event(self, job: Manifest, event: Event) -> Manifest:
        metadata = job["metadata"]
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {
                "name": f"{metadata['name'][:200]}.{uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "type": event.type,
            "reason": event.reason[:128],
            "note": _cut(event.message, NOTE_LIMIT),
            "action": "Reconcile",
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "resourceVersion": metadata["resourceVersion"],
                **{key: metadata[key] for key in ("name", "namespace", "uid")},
            },
            "reportingController": names.FIELD_MANAGER,
            "reportingInstance": self._instance[:128],
        }

    async def read_pod(self, namespace: str, pod: str, port: int, path: str, limits: ReadLimits) -> bytes:
        """GET from a pod through the API server's proxy."""
        url = f"{POD.path(namespace, f'{pod}:{port}', 'proxy')}{path}"
        return await self._send(_Request("get", POD, url, part="proxy", limits=limits))

    async def _write(self, request: "_Request") -> Manifest:
        self._fence()
        return await self._request(request)

    async def _request(self, request: "_Request") -> Manifest:
        body = await self._send(request)
        try:
            document: Manifest = json.loads(body)
            document["kind"]  # every object, list and Status says what it is; a login page of a proxy does not
        except (ValueError, TypeError, KeyError) as error:
            what = f"{request.verb} {request.kind.plural}"
            raise UnavailableError(f"the answer to {what} is no Kubernetes object: {body[:64]!r}") from error
        return document

    async def _send(self, request: "_Request") -> bytes:
        seconds = request.limits.seconds if request.limits else self._timeout
        try:
            answer = await self._connection.request(
                _METHODS[request.verb],
                request.url,
                body=request.body,
                content_type=request.content_type,
                seconds=seconds,
                limit=request.limits.size if request.limits else None,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._observe(request.verb, request.resource, 0)
            raise UnavailableError(f"no answer to {request.verb} {request.resource}: {error!r}") from error
        self._observe(request.verb, request.resource, answer.code)
        if answer.code >= 300:
            raise error_of(answer.code, answer.body, answer.headers)
        return answer.body


@dataclass(frozen=True)
class _Request:
    verb: str
    kind: Kind
    path: str
    body: object = None
    query: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON
    part: str = ""
    limits: ReadLimits | None = None

    @property
    def url(self) -> str:
        manager = (("fieldManager", names.FIELD_MANAGER),) if self.verb in ("create", "update", "patch") else ()
        query = urlencode((*self.query, *manager))
        return f"{self.path}?{query}" if query else self.path

    @property
    def resource(self) -> str:
        return f"{self.kind.plural}/{self.part}" if self.part else self.kind.plural


_METHODS = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")
