"""Folders outside ours that kubelet, containerd and CNI insist on. Those that were not there before go with the
cluster; in those that were, only what is ours does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from local_cluster import mounts

INSISTED_ON = (
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
POD_LOG_LINKS = Path("/var/log/containers")
CNI_RESULTS = Path("/var/lib/cni")


def remember(record: Path, folders: Iterable[str] = INSISTED_ON) -> None:
    """Writes down, once, which of the folders are not there yet."""
    if record.exists():
        return
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps([folder for folder in folders if not Path(folder).exists()]))
    fresh.rename(record)


def remove(record: Path) -> None:
    """Takes away the folders that came with the cluster."""
    if not record.exists():
        return
    for folder in map(Path, json.loads(record.read_text())):
        mounts.unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
    record.unlink()


def remove_entries(state: Path, network_name: str) -> None:
    """Takes away what is ours in folders that others use, too."""
    for link in POD_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{state}/"):
            link.unlink()
    for result in CNI_RESULTS.glob(f"**/{network_name}-*"):
        result.unlink()
