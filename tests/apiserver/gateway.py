"""A gateway between an operator and the API server: it sees and numbers every request and can spoil the traffic.

Requests can be answered in the API server's place, delayed, sent twice, cut short or left without an answer; lines of
watches can be held back, swapped, repeated or made up. What is spoiled, and when, is for the test to say.
"""

import asyncio
import json
import re
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

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
    number: int = 0
    """Its place among all requests through one gateway, from 1 on."""
    at: float = 0.0
    """When it came, in seconds of a clock that never goes back."""

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
    body: bytes | None = None
    """What is said instead of a Status or a list."""
    after: float = 0.0
    """Seconds of silence before it."""


@dataclass(frozen=True)
class Disturbed:
    """The API server answers, but not everything goes its way."""

    delay: float = 0.0
    """Seconds before the API server gets the request; the operator may have given up by then."""
    twice: bool = False
    """The API server gets the request two times; the second answer counts."""
    share: float = 1.0
    """Part of the answer that arrives before the connection is closed."""
    after: Callable[[], None] = lambda: None
    """Called once the API server has answered, before the operator hears of it."""


Fault = Spoiled | Disturbed
Spoil = Callable[[Request], Fault | None]


class Lines(Protocol):
    """What becomes of the lines of one watch."""

    def take(self, line: bytes) -> list[bytes]:
        """What is passed on now that a line has come."""
        ...

    def idle(self) -> list[bytes]:
        """What is passed on when no line has come for `IDLE_SECONDS`."""
        ...


class AsTheyCome:
    """Every line, at once."""

    def take(self, line: bytes) -> list[bytes]:
        return [line]

    def idle(self) -> list[bytes]:
        return []


IDLE_SECONDS = 0.3


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
        self.lines: Callable[[Request], Lines] = lambda _request: AsTheyCome()
        """Asked when a watch is opened."""
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
        request = _read(raw, await raw.read(), len(self.requests) + 1)
        self.requests.append(request)
        fault = self.spoil(request)
        if isinstance(fault, Spoiled):
            return await self._spoiled(raw, request, fault)
        try:
            return await self._forward(raw, request, fault or Disturbed())
        except aiohttp.ClientError:
            return self._closed(raw)

    async def _forward(self, raw: web.BaseRequest, request: Request, fault: Disturbed) -> web.StreamResponse:
        await asyncio.sleep(fault.delay)
        if fault.twice:
            async with self._ask(raw, request) as first:
                await first.read()
                self._answered(request, first.status)
        async with self._ask(raw, request) as answer:
            if request.verb == "watch" and answer.status == 200:
                return await self._stream(raw, request, answer)
            content = await answer.read()
            self._answered(request, answer.status)
            fault.after()
            return await self._pass_on(raw, content, answer.status, fault.share)

    def _ask(self, raw: web.BaseRequest, request: Request) -> "aiohttp.client._RequestContextManager":
        headers = {k: v for k, v in raw.headers.items() if k in ("Authorization", "Content-Type", "Accept")}
        url = f"{self._plane.server}{raw.path_qs}"
        return self._session.request(raw.method, url, data=request.body or None, headers=headers)

    def _answered(self, request: Request, code: int) -> None:
        self.answered.append((request, code))
        if request.is_work and code < 300:
            self.after_write(request)

    async def _pass_on(self, raw: web.BaseRequest, content: bytes, code: int, share: float) -> web.StreamResponse:
        if share == 1.0:
            return web.Response(body=content, status=code, content_type="application/json")
        if not share:
            return self._closed(raw)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        response = web.StreamResponse(status=code, headers=headers)
        await response.prepare(raw)
        await response.write(content[: max(1, int(len(content) * share))])
        return self._closed(raw)

    async def _spoiled(self, raw: web.BaseRequest, request: Request, spoiled: Spoiled) -> web.StreamResponse:
        await asyncio.sleep(spoiled.after)
        self.answered.append((request, spoiled.code or 599))
        if not spoiled.code:
            return self._closed(raw)
        if spoiled.body is not None:
            return web.Response(body=spoiled.body, status=spoiled.code, content_type="application/json")
        if spoiled.code == 200:
            return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []})
        body = {"kind": "Status", "code": spoiled.code, "reason": spoiled.reason, "message": "spoiled by the test"}
        return web.json_response(body, status=spoiled.code, headers={"Retry-After": "0"})

    @staticmethod
    def _closed(raw: web.BaseRequest) -> web.StreamResponse:
        if raw.transport is not None:
            raw.transport.abort()
        return web.Response(status=599)

    async def _stream(
        self, raw: web.BaseRequest, request: Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(raw)
        self._watches.append((request.resource, raw))
        try:
            await self._copy(request, answer.content, response)
        except (ConnectionResetError, EOFError):
            self._closed(raw)  # the operator is gone, or the lines end here
        finally:
            self._watches.remove((request.resource, raw))
        return response

    async def _copy(self, request: Request, source: aiohttp.StreamReader, response: web.StreamResponse) -> None:
        lines = self.lines(request)
        async with aclosing(_with_pauses(source)) as coming:
            async for line in coming:
                heard = line is not None and self._audible(request, line)
                for passed in lines.take(line) if line and heard else lines.idle():
                    await response.write(passed)

    def _audible(self, request: Request, line: bytes) -> bool:
        return request.resource not in self.silent or json.loads(line)["type"] == "BOOKMARK"

    def open_watches(self) -> set[str]:
        """Resources that are being watched."""
        return {resource for resource, _ in self._watches}

    def break_watches(self) -> None:
        """Close the connections of all watches, so that they are opened again."""
        for _, raw in [*self._watches]:
            if raw.transport is not None:
                self._loop.call_soon_threadsafe(raw.transport.abort)


async def _with_pauses(source: aiohttp.StreamReader) -> AsyncGenerator[bytes | None, None]:
    """The lines of a stream, and None whenever none has come for IDLE_SECONDS."""
    coming = asyncio.create_task(source.readline())
    try:
        while True:
            await asyncio.wait({coming}, timeout=IDLE_SECONDS)
            if not coming.done():
                yield None
            elif line := coming.result():
                coming = asyncio.create_task(source.readline())
                yield line
            else:
                return
    finally:
        coming.cancel()


def _read(raw: web.BaseRequest, body: bytes, number: int) -> Request:
    found = _PATH.match(raw.path)
    parts = found.groupdict() if found else {"resource": raw.path, "name": None, "part": None}
    resource = f"{parts['resource']}/{parts['part']}" if parts["part"] else str(parts["resource"])
    verb = _VERBS.get(raw.method) or ("get" if parts["name"] else "watch" if "watch" in raw.query else "list")
    name = parts["name"] or (json.loads(body)["metadata"]["name"] if verb == "create" else "")
    return Request(verb, resource, str(name), raw.query_string, body, number, time.monotonic())
