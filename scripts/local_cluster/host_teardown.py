"""Takes the cluster on this host away, from any half state, in the order in which nothing can come back.

First the processes that start others, then containers and shims, then mounts, network, control groups, and the folder
last: it holds the records that the other steps need.
"""

from __future__ import annotations

import shutil

from local_cluster import cgroups, containerd, kernel_settings, mounts, network, shared_folders
from local_cluster.host_layout import HostLayout
from local_cluster.lock import if_unused
from local_cluster.process import Processes, boot_id

_LAST = ("kube-apiserver", "etcd")


def tear_down(layout: HostLayout) -> None:
    """Everything; steps whose part is not there do nothing."""
    _end_processes(layout)
    _end_containers(layout)
    mounts.unmount_below(layout.directory)
    _unmount_image_store(layout)
    network.remove()
    kernel_settings.restore(layout.kernel_record)
    shared_folders.remove_entries(layout.directory, containerd.CNI_NETWORK)
    shared_folders.remove(layout.folders_record)
    if layout.directory.exists():
        shutil.rmtree(layout.directory)


def leftovers(layout: HostLayout) -> list[str]:
    """What a `down` would still take away."""
    found = [str(layout.directory)] if layout.directory.exists() else []
    runtime = [f"process {pid}" for pid in containerd.runtime_processes(layout.containerd)]
    return found + runtime + mounts.present(layout.directory) + network.leftovers() + cgroups.leftovers()


def forget_previous_boot(layout: HostLayout) -> None:
    """After a reboot, what containerd and runc wrote down about running containers is about nothing."""
    record = layout.boot_record
    if record.exists() and record.read_text().strip() != boot_id():
        for stale in (layout.containerd.state, layout.containerd.directory / "runc"):
            shutil.rmtree(stale, ignore_errors=True)


def _unmount_image_store(layout: HostLayout) -> None:
    # buildah leaves a mount on its store; a build that runs now needs it, and leaves it for the next `down`.
    with if_unused(layout.locations.images_lock) as unused:
        if unused:
            mounts.unmount_below(layout.locations.images)


def _end_processes(layout: HostLayout) -> None:
    processes = Processes(layout.directory)
    processes.stop([name for name in processes.names() if name not in _LAST])
    for name in _LAST:
        processes.stop([name], grace=1.0)


def _end_containers(layout: HostLayout) -> None:
    containerd.end_containers(layout.containerd)
    cgroups.remove()
