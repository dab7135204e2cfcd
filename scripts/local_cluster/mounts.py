"""Finds and takes away mounts below our folders: containers and builds that were cut short leave many."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from local_cluster.command import run, succeeds

MOUNTINFO = Path("/proc/self/mountinfo")


def mount_points(mountinfo: str) -> list[str]:
    """Every mount point of a mountinfo file, in the order of mounting."""
    return [line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines()]


def below(folder: Path, points: Iterable[str]) -> list[str]:
    """The mount points in a folder or on it, the latest first."""
    inside = [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]
    return inside[::-1]


def unmount_below(folder: Path) -> None:
    """Unmounts everything in a folder; a mount that is busy is detached and goes when its last user does."""
    for point in below(folder.resolve(), mount_points(MOUNTINFO.read_text())):
        if not succeeds(["umount", point]):
            run(["umount", "--lazy", point])


def present(folder: Path) -> list[str]:
    """What is mounted in a folder now."""
    return below(folder.resolve(), mount_points(MOUNTINFO.read_text()))
