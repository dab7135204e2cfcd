"""The Kubernetes on which everything is measured: API server, etcd without fsync, controller manager, fake nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from control.fake_nodes import FakeNodes
from control.system import System, pids_of
from local_cluster import binaries, control_plane_flags
from local_cluster.control_plane import ControlPlane

CONTROL_PLANE = ("kube-apiserver", "etcd", "kube-controller-manager", "kwok")
_API_SERVER = ("--audit-log-maxsize=20000",)
_CONTROLLER_MANAGER = (
    # By default it allows itself 20 requests per second, and would be what is measured.
    "--kube-api-qps=5000",
    "--kube-api-burst=10000",
    # With the default of 5 at a time, the Job controller would be what is measured once stages follow each other.
    "--concurrent-job-syncs=50",
    # No volume is ever provided here, which that controller would say again and again of each claim.
    "--controllers=*,-persistentvolume-binder-controller",
)


@contextmanager
def running(systems: Sequence[System]) -> Iterator[tuple[ControlPlane, FakeNodes]]:
    """A fresh control plane that knows the resources of all systems, with a node on which pods run and do not end."""
    plane = ControlPlane(controller_manager=True, extra_api_server_flags=_API_SERVER)
    nodes = FakeNodes(plane)
    try:
        plane.start("etcd")
        plane.start("kube-apiserver")
        for system in systems:
            system.define(plane)
        _start_controller_manager(plane)
        nodes.install()
        nodes.start(pods_end=False)
        yield plane, nodes
    finally:
        for system in systems:
            system.stop(plane)
        nodes.stop()
        plane.stop()


def component_pids(plane: ControlPlane) -> dict[str, int]:
    """Process number of each component that runs."""
    return {name: pid for name in CONTROL_PLANE for pid in pids_of(plane, [name])}


def _start_controller_manager(plane: ControlPlane) -> None:
    name = "kube-controller-manager"
    flags = [*control_plane_flags.kube_controller_manager(plane.settings), *_CONTROLLER_MANAGER]
    plane.processes.start(name, [binaries.path(name), *flags])
    plane.start(name)
