"""A gateway between an operator and the API server: it sees every request and can spoil the traffic on purpose.

Watches pass through line by line. What is spoiled, and when, is for the test to say.
"""

import asyncio
import json
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from local_cluster.control_plane import ControlPlane

_PATH = re.compile(
    r"^/(?:api|apis)/(?:[^/]+/)?v[0-9][^/]*(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>[a-z]+))?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
WRITES = tuple(_VERBS.values())


@dataclass(frozen=True)
class Request:
    """One request of the operator."""

    verb: str
    resource: str
    name: str
    query: str
    body: bytes

    @property
    def is_work(self) -> bool:
        """Whether it changes something other than the Lease."""
        return self.verb in WRITES and self.resource != "leases"

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass(frozen=True)
class Spoiled:
    """An answer instead of the API server's; code 0 closes the connection, 200 is an empty list as of long ago."""

    code: int
    reason: str = ""


Spoil = Callable[[Request], Spoiled | None]


class Gateway:
    """Listens on loopback from a thread of its own."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0
        self.requests: list[Request] = []
        self.answered: list[tuple[Request, int]] = []
        self.spoil: Spoil = lambda _request: None
        self.after_write: Callable[[Request], None] = lambda _request: None
        self.silent: frozenset[str] = frozenset()
        """Resources whose watches bring nothing."""
        self._watches: list[tuple[str, web.BaseRequest]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def work(self) -> list[str]:
        """What the operator wrote with success, Leases aside."""
        return [str(request) for request, code in self.answered if request.is_work and code < 300]

    def __enter__(self) -> "Gateway":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _start(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._plane.settings.pki.certificate("ca")))
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=tls), timeout=timeout)
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        self._ready.set()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        request = _read(raw, await raw.read())
        self.requests.append(request)
        spoiled = self.spoil(request)
        if spoiled is not None:
            return self._spoiled(raw, request, spoiled)
        headers = {k: v for k, v in raw.headers.items() if k in ("Authorization", "Content-Type", "Accept")}
        url = f"{self._plane.server}{raw.path_qs}"
        async with self._session.request(raw.method, url, data=request.body or None, headers=headers) as answer:
            if request.verb == "watch" and answer.status == 200:
                return await self._stream(raw, request, answer)
            content = await answer.read()
            self.answered.append((request, answer.status))
            if request.is_work and answer.status < 300:
                self.after_write(request)
            return web.Response(body=content, status=answer.status, content_type="application/json")

    def _spoiled(self, raw: web.BaseRequest, request: Request, spoiled: Spoiled) -> web.StreamResponse:
        self.answered.append((request, spoiled.code or 599))
        if not spoiled.code and raw.transport is not None:
            raw.transport.abort()
        if spoiled.code == 200:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        body = {"kind": "Status", "code": spoiled.code, "reason": spoiled.reason, "message": "spoiled by the test"}
        return web.json_response(body, status=spoiled.code or 599, headers={"Retry-After": "0"})

    async def _stream(
        self, raw: web.BaseRequest, request: Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(raw)
        self._watches.append((request.resource, raw))
        try:
            async for line in answer.content:
                if request.resource not in self.silent or json.loads(line)["type"] == "BOOKMARK":
                    await response.write(line)
        except ConnectionResetError:
            pass  # the operator is gone
        finally:
            self._watches.remove((request.resource, raw))
        return response

    def open_watches(self) -> set[str]:
        """Resources that are being watched."""
        return {resource for resource, _ in self._watches}

    def break_watches(self) -> None:
        """Close the connections of all watches, so that they are opened again."""
        for _, raw in [*self._watches]:
            if raw.transport is not None:
                self._loop.call_soon_threadsafe(raw.transport.abort)


def _read(raw: web.BaseRequest, body: bytes) -> Request:
    found = _PATH.match(raw.path)
    parts = found.groupdict() if found else {"resource": raw.path, "name": None, "part": None}
    resource = f"{parts['resource']}/{parts['part']}" if parts["part"] else str(parts["resource"])
    verb = _VERBS.get(raw.method) or ("get" if parts["name"] else "watch" if "watch" in raw.query else "list")
    name = parts["name"] or (json.loads(body)["metadata"]["name"] if verb == "create" else "")
    return Request(verb, resource, str(name), raw.query_string, body)
