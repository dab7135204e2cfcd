"""Runs cases, several at a time, and compares each with the fault-free run of its workload."""

import secrets
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from apiserver.job_api import JobApi
from faults.arena import Arena, Ground
from faults.audit import AuditLog
from faults.cases import Case, Record, fault_free, record_of
from faults.observer import Observer
from faults.workloads import Actor, Workload
from local_cluster.control_plane import ControlPlane

AUDIT_MEGABYTES = 20_000
"""The log is the history of all cases, so it must not be rotated away."""


@dataclass(frozen=True)
class Result:
    """How a case ended."""

    case: Case
    problems: list[str]
    injected: list[str]
    seconds: float
    record: Record | None = None

    @property
    def passed(self) -> bool:
        return not self.problems


@contextmanager
def ground(folder: Path | None = None) -> Iterator[Ground]:
    """A control plane without nodes, with the CRD of this repository in it and eyes upon it."""
    plane = ControlPlane(controller_manager=True, extra_api_server_flags=(f"--audit-log-maxsize={AUDIT_MEGABYTES}",))
    with TemporaryDirectory(prefix="faults-") as temporary:
        try:
            JobApi.start(plane)
            with Observer(plane) as observer:
                yield Ground(plane, observer, AuditLog(plane.audit_log), folder or Path(temporary))
        finally:
            plane.stop()


class Runner:
    """Runs cases on one control plane."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._lock = threading.Lock()
        self._wanted: dict[str, Future[Record]] = {}
        self._run = secrets.token_hex(3)
        self._number = 0

    def run(self, case: Case) -> Result:
        """Run one case; every problem is told, an exception as well."""
        started = time.monotonic()
        problems: list[str] = []
        arena, record = None, None
        try:
            want = self.want(case.workload) if not case.id.startswith("fault-free/") else None
            started = time.monotonic()
            arena = self._arena(case)
            record = _play(case, arena)
            problems += case.judge(record, want or record)
        except Exception as error:
            problems.append(_told(error))
        finally:
            if arena is not None:
                problems += _broken(case, arena)
                arena.close()
        return Result(case, problems, arena.injected if arena else [], time.monotonic() - started, record)

    def want(self, workload: Workload) -> Record:
        """The record of the fault-free run, made once."""
        with self._lock:
            first = workload.name not in self._wanted
            future = self._wanted.setdefault(workload.name, Future())
        if first:
            result = self.run(fault_free(workload))
            if result.problems or result.record is None:
                future.set_exception(AssertionError(f"the fault-free run failed: {result.problems}"))
            else:
                future.set_result(result.record)
        return future.result()

    def _arena(self, case: Case) -> Arena:
        with self._lock:
            self._number += 1
            namespace = f"f-{self._run}-{self._number}"
        arena = Arena(self._ground, namespace, case.seconds)
        arena.add_replica(**case.settings)
        return arena


def _play(case: Case, arena: Arena) -> Record:
    case.disturb(arena)
    arena.replica.start()
    (case.play or case.workload.play)(Actor(arena))
    arena.settle()
    return record_of(arena)


def _broken(case: Case, arena: Arena) -> Iterator[str]:
    yield from arena.ground.observer.broken(arena.namespace)
    yield from arena.busiest()
    yield from arena.wrong()
    exits = arena.unplanned_exits()
    if exits and not case.may_exit:
        codes = dict(Counter(exits))
        yield f"the operator ended by itself: exit code and times {codes}; its log:\n{_complaints(arena)}"


def _complaints(arena: Arena) -> str:
    """What the operators logged as a warning or worse, and what they wrote besides their log."""
    lines = [line for path in sorted(arena.logs().glob("*.log")) for line in path.read_text().splitlines()]
    return "\n".join(line for line in lines if not any(f'"level": "{level}"' in line for level in ("debug", "info")))


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError | AssertionError):
        return str(error)
    return "".join(traceback.format_exception(error))


def run_all(runner: Runner, cases: Iterable[Case], parallel: int, tell: Callable[[Result], None]) -> list[Result]:
    """Cases that share the control plane run together, those that disturb it one after the other."""
    cases = [*cases]
    results: list[Result] = []

    def run(case: Case) -> None:
        result = runner.run(case)
        results.append(result)
        tell(result)

    pool = ThreadPoolExecutor(parallel)
    try:
        for done in [pool.submit(run, case) for case in cases if not case.alone]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)  # whoever interrupts does not wait for all that was still to come
    for case in (case for case in cases if case.alone):
        run(case)
    return results
