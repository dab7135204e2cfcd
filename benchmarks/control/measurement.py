"""One measurement: so many resources at such a rate, from their creation to their end, and what all of it cost."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from control import accounts, cluster, figures
from control.driver import Driver, Sightings, opened, until
from control.fake_nodes import FakeNodes
from control.system import System
from local_cluster.control_plane import ControlPlane
from local_cluster.progress import say

PATIENCE_SECONDS = 180.0
WARM_UP = 10
_QUIET_SECONDS = 2.0
_runs = count(1)


@dataclass(frozen=True)
class Load:
    """What is created. `rate` is per second; None is as fast as the API server takes it."""

    jobs: int
    rate: float | None = None
    to_the_end: bool = True

    def __str__(self) -> str:
        return f"{self.jobs} at once" if self.rate is None else f"{self.jobs} at {self.rate:g} per second"


@dataclass
class Costs:
    """Processor seconds of a span of time: of the system under test, of everything around it, of anybody else."""

    seconds: float = 0.0
    operator: float = 0.0
    components: dict[str, float] = field(default_factory=dict)
    driver: float = 0.0
    others: float = 0.0
    """Of processes that are no part of the benchmark: the noise."""


@dataclass
class Measurement:
    """The figures of one system under one load. Seconds, MiB and counts."""

    system: str
    title: str
    jobs: int
    rate: float | None
    seconds_to_last_child: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    slowest: float = 0.0
    seconds_to_last_end: float | None = None
    peak_mib: float = 0.0
    watches_ended: int = 0
    to_children: Costs = field(default_factory=Costs)
    whole: Costs = field(default_factory=Costs)
    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    operator_requests: dict[str, int] = field(default_factory=dict)

    @property
    def children_per_second(self) -> float:
        """Of the whole span from the first creation to the last child."""
        return self.jobs / self.seconds_to_last_child if self.seconds_to_last_child else 0.0

    @property
    def alone_per_second(self) -> float:
        """The same if nobody else had used the processors: an estimate, good where they were all busy."""
        left = self.seconds_to_last_child - self.to_children.others / (os.cpu_count() or 1)
        return self.jobs / left if left > 0 else 0.0

    def document(self) -> dict[str, Any]:
        """All figures, for JSON."""
        derived = {"children_per_second": self.children_per_second, "alone_per_second": self.alone_per_second}
        return asdict(self) | derived


class Meter:
    """Adds up processor time from now on."""

    def __init__(self, plane: ControlPlane, system: System) -> None:
        self._plane = plane
        self._system = system
        self._start = self._read()

    def costs(self) -> Costs:
        """Since the meter was made. A component that was started anew in between counts from that start."""
        now, start = self._read(), self._start
        components = {name: now.components[name] - start.components.get(name, 0.0) for name in now.components}
        components = {name: max(value, 0.0) for name, value in components.items()}
        spent = Costs(now.seconds - start.seconds, now.operator - start.operator, components, now.driver - start.driver)
        ours = spent.operator + sum(components.values()) + spent.driver
        spent.others = max(now.others - start.others - ours, 0.0)
        return spent

    def _read(self) -> Costs:
        components = {n: figures.cpu_seconds([pid]) for n, pid in cluster.component_pids(self._plane).items()}
        operator = figures.cpu_seconds(self._system.pids(self._plane))
        return Costs(time.monotonic(), operator, components, time.process_time(), figures.busy_seconds())


@contextmanager
def namespace(plane: ControlPlane, nodes: FakeNodes) -> Iterator[str]:
    """A namespace that is gone, with all that was in it, after the block."""
    name = f"bench-{os.getpid()}-{next(_runs)}"
    accounts.make_namespace(plane, name)
    try:
        yield name
    finally:
        nodes.start(pods_end=True)
        plane.client().request("DELETE", f"/api/v1/namespaces/{name}")


async def measure(plane: ControlPlane, nodes: FakeNodes, system: System, load: Load) -> Measurement:
    """Start the system afresh, load it, look at it, end it and clean up."""
    say(f"{system.description.title}: {load}")
    nodes.start(pods_end=False)
    system.start(plane)
    try:
        await _warm_up(plane, nodes, system)
        with namespace(plane, nodes) as where:
            result = await _measure(plane, nodes, system, load, where)
            say(json.dumps({key: value for key, value in result.document().items() if key != "requests"}))
            system.stop(plane)
        await _gone(plane, where)
    finally:
        system.stop(plane)
    return result


async def _warm_up(plane: ControlPlane, nodes: FakeNodes, system: System) -> None:
    """The first requests of a process load code and open connections."""
    with namespace(plane, nodes) as where:
        async with opened(plane, system, where) as driver:
            await driver.create([f"warm-up-{n}" for n in range(WARM_UP)], None)
            await driver.wait_children(WARM_UP, PATIENCE_SECONDS)
            nodes.start(pods_end=True)
            await driver.wait_ended(WARM_UP, PATIENCE_SECONDS)
    await _gone(plane, where)
    nodes.start(pods_end=False)


async def _gone(plane: ControlPlane, where: str) -> None:
    if not await until(plane, f"/api/v1/namespaces/{where}", lambda code: code == 404, 600.0):
        say(f"namespace {where} is still there")


async def _measure(plane: ControlPlane, nodes: FakeNodes, system: System, load: Load, where: str) -> Measurement:
    result = Measurement(system.description.name, system.description.title, load.jobs, load.rate)
    audit_start = plane.audit_log.stat().st_size
    async with opened(plane, system, where) as driver:
        meter = Meter(plane, system)
        await _create(driver, load)
        result.to_children = meter.costs()
        _note_latencies(result, driver.seen)
        if load.to_the_end:
            nodes.start(pods_end=True)
            await driver.wait_ended(load.jobs, PATIENCE_SECONDS)
            result.seconds_to_last_end = max(driver.seen.ended.values()) - min(driver.seen.created.values())
        await settle(plane, system)
        result.whole = meter.costs()
        result.watches_ended = driver.seen.watches_ended
        result.peak_mib = figures.peak_mib(system.pids(plane))
    _note_requests(result, plane, system, where, audit_start)
    return result


async def _create(driver: Driver, load: Load) -> None:
    names = [f"b-{number}" for number in range(load.jobs)]
    async with asyncio.TaskGroup() as group:
        group.create_task(driver.create(names, load.rate))
        group.create_task(driver.wait_children(load.jobs, PATIENCE_SECONDS))


async def settle(plane: ControlPlane, system: System) -> None:
    """Until the system does next to nothing: the last status may be written after the last child."""
    used = figures.cpu_seconds(system.pids(plane))
    while True:
        await asyncio.sleep(_QUIET_SECONDS)
        now = figures.cpu_seconds(system.pids(plane))
        if now - used < 0.05 * _QUIET_SECONDS:
            return
        used = now


def _note_latencies(result: Measurement, seen: Sightings) -> None:
    latencies = seen.latencies()
    result.seconds_to_last_child = max(seen.child.values()) - min(seen.created.values())
    result.p50, result.p99 = (figures.percentile(latencies, percent) for percent in (50, 99))
    result.slowest = max(latencies)


def _note_requests(result: Measurement, plane: ControlPlane, system: System, where: str, start: int) -> None:
    with plane.audit_log.open("rb") as log:
        log.seek(start)
        requests = figures.requests_of(log, where)
    result.requests = {user: dict(counted) for user, counted in requests.items()}
    result.operator_requests = dict(figures.of_users(requests, system.description.users))
