"""Where the figures come from: /proc, the audit log, and arithmetic. Nothing here starts or asks anything."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_READS = ("get", "list")
_WRITES = ("create", "update", "patch", "delete", "deletecollection")

Requests = dict[str, Counter[str]]
"""By user: how often each "verb resource"."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def cpu_seconds_of(stat: str) -> float:
    """User and system time in the text of /proc/<pid>/stat, in seconds."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_seconds_of(stat: str) -> float:
    """What all processors together have worked, in the text of /proc/stat, in seconds; waiting is not work."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def peak_mib_of(status: str) -> float:
    """Largest resident memory in the text of /proc/<pid>/status, in MiB."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes so far."""
    return sum(cpu_seconds_of(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def busy_seconds() -> float:
    """What all processors of this machine have worked since boot."""
    return busy_seconds_of(Path("/proc/stat").read_text())


def peak_mib(pids: Iterable[int]) -> float:
    """Sum of the largest resident memory of processes."""
    return sum(peak_mib_of(Path(f"/proc/{pid}/status").read_text()) for pid in pids)


def requests_of(audit_lines: Iterable[bytes], namespace: str) -> Requests:
    """Requests about objects of one namespace, by user and by verb and resource; watches are left out."""
    counted: Requests = {}
    mark = f'"namespace":"{namespace}"'.encode()
    for line in audit_lines:
        if mark not in line:
            continue
        event = json.loads(line)
        reference = event.get("objectRef") or {}
        if reference.get("namespace") == namespace and event["verb"] != "watch":
            part = f"/{reference['subresource']}" if reference.get("subresource") else ""
            counted.setdefault(event["user"]["username"], Counter())[
                f"{event['verb']} {reference['resource']}{part}"
            ] += 1
    return counted


def of_users(requests: Requests, users: Iterable[str]) -> Counter[str]:
    """All requests of some users."""
    return sum((requests.get(user, Counter()) for user in users), Counter())


def writes(requests: Mapping[str, int]) -> int:
    """How many of the requests change something."""
    return sum(count for request, count in requests.items() if request.split()[0] in _WRITES)


def reads(requests: Mapping[str, int]) -> int:
    """How many of the requests only look."""
    return sum(count for request, count in requests.items() if request.split()[0] in _READS)
