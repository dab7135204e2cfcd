"""Many jobs at once: whether the cost of one grows with their number, and how soon a new operator is ready then."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from control import figures
from control.driver import Driver, opened
from control.fake_nodes import FakeNodes
from control.measurement import PATIENCE_SECONDS, namespace, settle
from control.system import System
from local_cluster.control_plane import ControlPlane
from local_cluster.progress import say


@dataclass
class Part:
    """A number of jobs in the course of the burst: seconds and operator processor seconds until all had a child."""

    jobs: int
    seconds: float
    operator: float


@dataclass
class Scale:
    """The figures of one system with many resources present."""

    system: str
    title: str
    jobs: int
    first_half: Part
    second_half: Part
    peak_mib: float
    ready_seconds: float
    ready_operator: float
    restarted_peak_mib: float
    rate: float
    rate_jobs: int
    rate_p50: float
    rate_p99: float
    rate_slowest: float

    @property
    def growth(self) -> float:
        """Processor time of a job in the second half over that in the first; 1 is linear."""
        return self.second_half.operator / self.second_half.jobs / (self.first_half.operator / self.first_half.jobs)

    def document(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self) | {"growth": self.growth}


async def measure_scale(
    plane: ControlPlane, nodes: FakeNodes, system: System, jobs: int, *, rate: float = 10.0, rate_jobs: int = 200
) -> Scale:
    """Create the jobs in two halves, restart the operator among them, then let more come at a steady rate."""
    nodes.start(pods_end=False)
    system.start(plane)
    with namespace(plane, nodes) as where:
        async with opened(plane, system, where) as driver:
            say(f"{system.description.title}: {jobs} at once, in two halves")
            first = await _create(plane, system, driver, 0, jobs // 2)
            second = await _create(plane, system, driver, jobs // 2, jobs)
            peak = figures.peak_mib(system.pids(plane))
            say("a new process among them")
            ready, used, fresh_peak = await _restart(plane, system)
            say(f"{rate_jobs} more at {rate:g} per second")
            known = set(driver.seen.created)
            await driver.create([f"r-{n}" for n in range(rate_jobs)], rate)
            await driver.wait_children(jobs + rate_jobs, PATIENCE_SECONDS)
        latencies = [driver.seen.child[n] - t for n, t in driver.seen.created.items() if n not in known]
        p50, p99 = (figures.percentile(latencies, percent) for percent in (50, 99))
        about = system.description
        return Scale(
            about.name, about.title, jobs, first, second, peak, ready, used, fresh_peak,
            rate, rate_jobs, p50, p99, max(latencies),
        )  # fmt: skip


async def _create(plane: ControlPlane, system: System, driver: Driver, start: int, stop: int) -> Part:
    """Each half begins with an operator that has nothing to do."""
    used, began = figures.cpu_seconds(system.pids(plane)), time.monotonic()
    await driver.create([f"b-{n}" for n in range(start, stop)], None)
    await driver.wait_children(stop, PATIENCE_SECONDS)
    seconds = time.monotonic() - began
    await settle(plane, system)
    return Part(stop - start, seconds, figures.cpu_seconds(system.pids(plane)) - used)


async def _restart(plane: ControlPlane, system: System) -> tuple[float, float, float]:
    """Seconds and processor seconds until a new process is ready, and its peak memory in MiB once it is idle."""
    system.stop(plane)
    began = time.monotonic()
    system.start(plane)
    ready, used = time.monotonic() - began, figures.cpu_seconds(system.pids(plane))
    await settle(plane, system)
    return ready, used, figures.peak_mib(system.pids(plane))
