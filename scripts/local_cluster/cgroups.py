"""The control group that all pods live in, under version 1, version 2 and the hybrid of both: whatever is mounted.

It is ours alone, so whatever runs in it is a container of this cluster and may be ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError
from local_cluster.waiting import wait_until

NAME = "finetune-operator"
MOUNTINFO = Path("/proc/self/mountinfo")
_INHERITED = ("cpuset.cpus", "cpuset.mems")  # empty in a new version 1 group, which then takes no process


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy."""

    root: Path
    unified: bool

    @property
    def group(self) -> Path:
        """Our group in it."""
        return self.root / NAME


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """Every cgroup hierarchy that a mountinfo file names."""
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind = right.split()[0]
        if kind in ("cgroup", "cgroup2"):
            root = Path(left.split()[4])
            found[root] = Hierarchy(root, unified=kind == "cgroup2")
    return list(found.values())


def version_1(mounted: list[Hierarchy]) -> bool:
    """Whether controllers are managed by version 1, also in the hybrid."""
    return any(not hierarchy.unified for hierarchy in mounted)


def mounted_here() -> list[Hierarchy]:
    """The hierarchies of this machine."""
    return hierarchies(MOUNTINFO.read_text())


def create() -> None:
    """Makes our group in every hierarchy, with every controller that is there."""
    for hierarchy in mounted_here():
        hierarchy.group.mkdir(exist_ok=True)
        if hierarchy.unified:
            _hand_down_controllers(hierarchy.root)
        else:
            _inherit(hierarchy)


def remove() -> None:
    """Ends every container of this cluster and takes the group away."""
    groups = [hierarchy.group for hierarchy in mounted_here() if hierarchy.group.exists()]
    wait_until(lambda: not _kill_all(groups), timeout=10)
    for group in groups:
        _remove_tree(group)


def leftovers() -> list[str]:
    """What `remove` would take away now."""
    return [str(hierarchy.group) for hierarchy in mounted_here() if hierarchy.group.exists()]


def _inherit(hierarchy: Hierarchy) -> None:
    for name in _INHERITED:
        source, target = hierarchy.root / name, hierarchy.group / name
        if target.exists() and not target.read_text().strip():
            target.write_text(source.read_text())


def _hand_down_controllers(root: Path) -> None:
    wanted = (root / "cgroup.controllers").read_text().split()
    control = root / "cgroup.subtree_control"
    missing = [name for name in wanted if name not in control.read_text().split()]
    try:
        for name in missing:
            control.write_text(f"+{name}")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise LocalClusterError(
            f"{root} holds processes, so the kernel gives its controllers to no group below it. This is so in a "
            "container with a cgroup namespace of its own: start it with the host's (--cgroupns=host), or use kind."
        ) from error


def _kill_all(groups: list[Path]) -> bool:
    """Kills every process in the groups; whether there was any."""
    pids = {int(pid) for group in groups for file in group.rglob("cgroup.procs") for pid in _lines(file)}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the group went while it was read, or holds threads only
        return []


def _remove_tree(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            _remove_when_empty(Path(folder))


def _remove_when_empty(folder: Path) -> None:
    def removed() -> bool:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    # The kernel lets go of the last process a moment after it has ended.
    if not wait_until(removed, timeout=5):
        raise LocalClusterError(f"{folder} still holds processes (see its cgroup.procs); end them and try again")
