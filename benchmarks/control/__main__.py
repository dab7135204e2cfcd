"""`python -m control`: measures operators on one control plane, prints tables and writes a results file."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from control import cluster, programs, report
from control.finetune import FineTune
from control.measurement import Load, measure
from control.scale import measure_scale
from control.system import System
from control.trainer import Trainer
from local_cluster import versions
from local_cluster.progress import say

RESULTS = Path(__file__).parents[1] / "results"
_SYSTEMS = ("finetune", "trainer", "trainer-lifted")
_STANDARD = (Load(1000), Load(300, rate=10.0))


def main() -> None:
    """Parse the command line and measure, or render an earlier result."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the control plane goes too
    if arguments.render:
        print(report.markdown(json.loads(arguments.render.read_text())), end="")
        return
    path = RESULTS / f"control-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.json"
    results = asyncio.run(_run(arguments, path))
    print(report.markdown(results), end="")
    say(f"written to {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m control", description=__doc__)
    parser.add_argument("--systems", default=",".join(_SYSTEMS), help=f"some of {', '.join(_SYSTEMS)}, with commas")
    parser.add_argument(
        "--jobs", type=int, help="resources to create; 1000 at once and 300 at 10 per second by default"
    )
    parser.add_argument("--rate", default="burst", help="burst, or resources per second; with --jobs")
    parser.add_argument(
        "--children-only", action="store_true", help="end with the last child Job, not with the last stage"
    )
    parser.add_argument("--scale", type=int, default=10_000, help="FineTuneJobs of the scale test; 0 leaves it out")
    parser.add_argument("--render", type=Path, help="print the tables of a results file and measure nothing")
    return parser


async def _run(arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """The results so far are in `path` after each measurement: half an hour is long enough to be interrupted."""
    systems = [_system(name) for name in arguments.systems.split(",") if name]
    results = _origin()
    with cluster.running(systems) as (plane, nodes):
        for load in _loads(arguments):
            for system in systems:
                results["measurements"].append((await measure(plane, nodes, system, load)).document())
                _write(results, path)
        for system in systems if arguments.scale else ():
            if isinstance(system, FineTune):
                results["scales"].append((await measure_scale(plane, nodes, system, arguments.scale)).document())
                _write(results, path)
    return results


def _system(name: str) -> System:
    if name not in _SYSTEMS:
        raise SystemExit(f"no system is called {name!r}; there are: {', '.join(_SYSTEMS)}")
    return FineTune() if name == "finetune" else Trainer(lifted=name == "trainer-lifted")


def _loads(arguments: argparse.Namespace) -> tuple[Load, ...]:
    to_the_end = not arguments.children_only
    if arguments.jobs is None:
        return tuple(Load(load.jobs, load.rate, to_the_end) for load in _STANDARD)
    rate = None if arguments.rate == "burst" else float(arguments.rate)
    return (Load(arguments.jobs, rate, to_the_end),) if arguments.jobs else ()


def _origin() -> dict[str, Any]:
    used = {"Kubernetes": versions.KUBERNETES, "etcd": versions.ETCD, "KWOK": programs.version("kwok")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores of {_processor()}, {memory:.0f} GiB",
        "versions": used | {"Python": platform.python_version()},
        "measurements": [],
        "scales": [],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _write(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
