"""Creates resources and sees what becomes of them, at little cost: it shares the processors with what it measures.

Times are seconds of this process's monotonic clock. A resource is created when its request is sent; a child is there
when the watch says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from control.system import Object, System
from local_cluster.control_plane import ControlPlane

CONCURRENT_CREATES = 32
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
_JOBS = "/apis/batch/v1/namespaces/{}/jobs"
_LINE_LIMIT = 4 * 1024 * 1024


class StalledError(Exception):
    """Nothing has happened for too long."""


@dataclass
class Sightings:
    """When what was seen, by the resource's name."""

    created: dict[str, float] = field(default_factory=dict)
    child: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    jobs: int = 0
    """Child Jobs of any stage: signs of life long before the first of many resources has ended."""
    watches_ended: int = 0
    """By the API server; what they would have brought is seen a little late."""

    def latencies(self) -> list[float]:
        """Seconds from creation to first child, of each resource that has one."""
        return [self.child[name] - created for name, created in self.created.items() if name in self.child]


class Driver:
    """Works in one namespace. Use `opened`."""

    def __init__(self, session: aiohttp.ClientSession, system: System, namespace: str) -> None:
        self._session = session
        self._system = system
        self._namespace = namespace
        self.seen = Sightings()

    async def create(self, names: list[str], rate: float | None) -> None:
        """Create resources: all at once, or so many per second whatever the API server does."""
        slots = asyncio.Semaphore(CONCURRENT_CREATES)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                if rate is not None:
                    await asyncio.sleep(started + number / rate - time.monotonic())
                await slots.acquire()
                group.create_task(self._create(name)).add_done_callback(lambda _: slots.release())

    async def wait_children(self, count: int, patience: float) -> None:
        """Wait until so many resources have a child."""
        await self._wait(self.seen.child, count, patience, "children")

    async def wait_ended(self, count: int, patience: float) -> None:
        """Wait until so many resources have ended well."""
        await self._wait(self.seen.ended, count, patience, "ends")

    async def _create(self, name: str) -> None:
        self.seen.created[name] = time.monotonic()
        path = self._system.description.path(self._namespace)
        async with self._session.post(path, json=self._system.resource(name)) as answer:
            text = await answer.text()
            if answer.status != 201:
                raise RuntimeError(f"{path} answered {answer.status} to {name}: {text}")

    async def _wait(self, seen: dict[str, float], count: int, patience: float, what: str) -> None:
        known, since = (-1, -1), time.monotonic()
        while len(seen) < count:
            if (len(seen), self.seen.jobs) != known:
                known, since = (len(seen), self.seen.jobs), time.monotonic()
            if time.monotonic() - since > patience:
                raise StalledError(f"{len(seen)} of {count} {what}, and no more for {patience:g} s")
            await asyncio.sleep(0.05)

    async def watch_children(self) -> None:
        """Note each resource's first child Job, for ever."""
        path = _JOBS.format(self._namespace)
        await self._watch(path, _METADATA, lambda line: line.startswith(b'{"type":"ADDED"'), self._note_child)

    async def watch_ends(self) -> None:
        """Note each resource that has ended well, for ever."""
        description = self._system.description
        mark = f'"{description.ended}"'.encode()
        path = f"{description.path(self._namespace)}?includeObject=None"
        await self._watch(path, _TABLE, lambda line: mark in line, self._note_end)

    def _note_child(self, event: Object) -> None:
        labels = event["object"]["metadata"].get("labels") or {}
        name = labels.get(self._system.description.job_label)
        if name:
            self.seen.jobs += 1
            self.seen.child.setdefault(name, time.monotonic())

    def _note_end(self, event: Object) -> None:
        for row in event["object"].get("rows") or []:
            if self._system.description.ended in row["cells"]:
                self.seen.ended.setdefault(row["cells"][0], time.monotonic())

    async def _watch(
        self, path: str, accept: str, wanted: Callable[[bytes], bool], note: Callable[[Object], None]
    ) -> None:
        """A busy API server ends a watch that it finds slow; the next one begins with all that is there by then."""
        query = f"{path}{'&' if '?' in path else '?'}watch=1&timeoutSeconds=7200"
        timeout = aiohttp.ClientTimeout(total=None)
        while True:
            async with self._session.get(query, headers={"Accept": accept}, timeout=timeout) as answer:
                answer.raise_for_status()
                with contextlib.suppress(aiohttp.ClientPayloadError):
                    async for line in answer.content:
                        if wanted(line):
                            note(json.loads(line))
            self.seen.watches_ended += 1


@asynccontextmanager
async def opened(plane: ControlPlane, system: System, namespace: str) -> AsyncIterator[Driver]:
    """A driver whose watches run; whatever ends one of them ends the block."""
    connector = aiohttp.TCPConnector(limit=CONCURRENT_CREATES + 2, ssl=_tls(plane))
    async with aiohttp.ClientSession(plane.server, connector=connector, read_bufsize=_LINE_LIMIT) as session:
        driver = Driver(session, system, namespace)
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(watch) for watch in (driver.watch_children(), driver.watch_ends())]
            await asyncio.sleep(0.5)
            yield driver
            for watch in watches:
                watch.cancel()


async def until(plane: ControlPlane, path: str, condition: Callable[[int], bool], patience: float) -> bool:
    """Whether a GET of `path` came to answer a status that meets the condition."""
    deadline = time.monotonic() + patience
    while not condition((await asyncio.to_thread(plane.client().request, "GET", path))[0]):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.5)
    return True


def _tls(plane: ControlPlane) -> ssl.SSLContext:
    pki = plane.settings.pki
    context = ssl.create_default_context(cafile=str(pki.certificate("ca")))
    context.load_cert_chain(pki.certificate("admin"), pki.key("admin"))
    return context
