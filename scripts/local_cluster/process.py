"""Starts, watches and ends processes so that a later call, even after a crash, ends exactly what this tool started.

A process writes its own record (its /proc stat line and the boot's id) before it becomes the program: there is no
moment in which it runs unrecorded. The start time in the record keeps a recycled pid from being taken for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import ComponentFailedError
from local_cluster.waiting import wait_until

PROC = Path("/proc")
# $1 is the record's path; what follows is the program. Renaming makes the record whole or absent.
_RECORD_THEN_EXEC = (
    'cat /proc/$$/stat /proc/sys/kernel/random/boot_id > "$1.new" && mv -f "$1.new" "$1" && shift && exec "$@"'
)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process for all time: its number, when it started (clock ticks since boot), and in which boot."""

    pid: int
    start_ticks: int
    boot_id: str


def parse_stat(stat: str) -> tuple[int, str, int]:
    """Number, state and start time of a /proc/<pid>/stat line; the name in it may hold spaces and brackets."""
    pid = int(stat.split(" ", 1)[0])
    fields = stat.rpartition(")")[2].split()
    return pid, fields[0], int(fields[19])


def parse_record(text: str) -> ProcessIdentity | None:
    """The identity in a record, or None when a crash left it unreadable."""
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0]:
        return None
    pid, _, start_ticks = parse_stat(lines[0])
    return ProcessIdentity(pid, start_ticks, lines[-1].strip())


def boot_id() -> str:
    """Differs after every boot of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def is_running(identity: ProcessIdentity) -> bool:
    """Whether that very process runs; one that only waits to be reaped does not."""
    _reap(identity.pid)
    try:
        _, state, start_ticks = parse_stat((PROC / str(identity.pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and start_ticks == identity.start_ticks and identity.boot_id == boot_id()


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


class Processes:
    """The processes of one cluster, by component name; records and logs lie in its folder."""

    def __init__(self, directory: Path) -> None:
        self.records = directory / "run"
        self.logs = directory / "logs"

    def log(self, name: str) -> Path:
        """What a component writes to its output."""
        return self.logs / f"{name}.log"

    def names(self) -> list[str]:
        """Every component that was ever started here."""
        return sorted(record.stem for record in self.records.glob("*.record"))

    def identity(self, name: str) -> ProcessIdentity | None:
        """Who the component is, as it recorded when it started."""
        record = self.records / f"{name}.record"
        return parse_record(record.read_text()) if record.exists() else None

    def running(self, name: str) -> bool:
        """Whether the component runs."""
        identity = self.identity(name)
        return identity is not None and is_running(identity)

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Starts the component unless it runs. Its own session keeps a Ctrl-C at the terminal away from it."""
        if self.running(name):
            return
        for folder in (self.records, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        record = self.records / f"{name}.record"
        record.unlink(missing_ok=True)
        words = ["/bin/sh", "-c", _RECORD_THEN_EXEC, name, str(record), *map(str, command)]
        with self.log(name).open("ab") as log:
            subprocess.Popen(
                words,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not wait_until(record.exists, timeout=10):
            raise ComponentFailedError(name, "could not be started", self.log(name))

    def send(self, name: str, number: signal.Signals) -> None:
        """Signals the component if it runs."""
        identity = self.identity(name)
        if identity is not None and is_running(identity):
            with contextlib.suppress(ProcessLookupError):
                os.kill(identity.pid, number)

    def stop(self, names: Iterable[str], grace: float = 3.0) -> None:
        """Ends components together: politely, then by force; their records go with them."""
        wanted = list(names)
        for name in wanted:
            self.send(name, signal.SIGTERM)
            self.send(name, signal.SIGCONT)  # a paused process would never see the first
        if not wait_until(lambda: not any(map(self.running, wanted)), timeout=grace):
            self.kill(wanted)
        for name in wanted:
            (self.records / f"{name}.record").unlink(missing_ok=True)

    def kill(self, names: Iterable[str]) -> None:
        """Ends components at once, as a crash would."""
        wanted = list(names)
        for name in wanted:
            self.send(name, signal.SIGKILL)
        wait_until(lambda: not any(map(self.running, wanted)), timeout=10)

    def wait_healthy(self, name: str, healthy: Callable[[], bool], timeout: float) -> None:
        """Waits for the component; fails with the end of its log when it has ended or is not healthy in time."""
        came = wait_until(lambda: not self.running(name) or healthy(), timeout)
        if not self.running(name):
            raise ComponentFailedError(name, "ended while it was starting", self.log(name))
        if not came:
            raise ComponentFailedError(name, f"runs, but was not healthy after {timeout:.0f} s", self.log(name))
