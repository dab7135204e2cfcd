"""Tells whether the parts of the cluster on this host work, each by its own health check."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from functools import cached_property, partial

from local_cluster import containerd, node, services
from local_cluster.cluster import Status
from local_cluster.control_plane import ControlPlane
from local_cluster.control_plane_flags import COMPONENTS as CONTROL_PLANE
from local_cluster.control_plane_flags import ControlPlaneSettings
from local_cluster.host_layout import HostLayout
from local_cluster.named_context import is_ready
from local_cluster.process import Processes


class HostHealth:
    """Asks; starts and changes nothing."""

    def __init__(self, layout: HostLayout) -> None:
        self.layout = layout
        self.processes = Processes(layout.directory)

    @property
    def settings(self) -> ControlPlaneSettings:
        """How the control plane is started: its API server is on the bridge, where pods reach it."""
        layout = self.layout
        return ControlPlaneSettings(
            layout.directory,
            layout.ports,
            address=layout.network.gateway,
            advertised=True,
            pod_range=layout.network.pod_range,
        )

    @property
    def control_plane(self) -> ControlPlane:
        """etcd, the API server, the controller manager and the scheduler."""
        return ControlPlane(settings=self.settings, controller_manager=True, scheduler=True)

    @cached_property
    def checks(self) -> dict[str, Callable[[], bool]]:
        """The health check of every component."""
        ports, gateway = self.layout.ports, self.layout.network.gateway
        return {
            **{name: partial(self.control_plane.healthy, name) for name in CONTROL_PLANE},
            "containerd": partial(containerd.healthy, self.layout.containerd),
            "registry": partial(answers, gateway, services.REGISTRY_PORT, "/v2/"),
            "coredns": partial(answers, "127.0.0.1", ports["coredns-ready"], "/ready"),
            "storage-provisioner": partial(self.processes.running, "storage-provisioner"),
            "kubelet": partial(answers, "127.0.0.1", ports["kubelet"], "/healthz"),
            "kube-proxy": partial(answers, "127.0.0.1", ports["kube-proxy"], "/livez"),
        }

    def status(self) -> Status:
        """Every component's state, the node's, and where to look."""
        kubeconfig = str(self.layout.kubeconfig)
        if not self.layout.directory.exists():
            return Status("host", kubeconfig, missing=("the cluster is not started: local_cluster up",))
        components = {name: self._state(name) for name in self.checks}
        answering = components["kube-apiserver"] == "healthy"
        nodes = self.nodes() if answering else {}
        missing = [f"{name} is {state}" for name, state in components.items() if state != "healthy"]
        missing += [] if nodes.get(node.NAME) else [f"node {node.NAME} is not Ready"]
        version = self._version() if answering else None
        return Status("host", kubeconfig, version, nodes, components, self._details(), tuple(missing))

    def nodes(self) -> dict[str, bool]:
        """Which nodes there are, and whether they are Ready."""
        listed = self.control_plane.client().get("/api/v1/nodes")["items"]
        return {item["metadata"]["name"]: is_ready(item) for item in listed}

    def _state(self, name: str) -> str:
        if not self.processes.running(name):
            return "not running"
        return "healthy" if self.checks[name]() else "unhealthy"

    def _version(self) -> str:
        return str(self.control_plane.client().get("/version")["gitVersion"])

    def _details(self) -> dict[str, str]:
        return {
            "server": self.settings.server,
            "registry": self.layout.registry,
            "audit log": str(self.settings.audit_log),
            "logs": str(self.processes.logs),
        }


def answers(host: str, port: int, path: str) -> bool:
    """Whether a plain http GET ends well, and soon."""
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
