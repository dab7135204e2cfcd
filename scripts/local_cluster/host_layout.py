"""Where the parts of the cluster on this host lie, and at which addresses they listen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster import ports, services
from local_cluster.containerd import Containerd
from local_cluster.locations import Locations
from local_cluster.network import PodNetwork

BRIDGE_PORTS = {"kube-apiserver": 6443}
LOOPBACK_PORTS = (
    "etcd",
    "etcd-peer",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kube-proxy-metrics",
    "coredns",
    "coredns-ready",
)


@dataclass(frozen=True)
class HostLayout:
    """One folder; its name is in every argument by which our processes are known."""

    locations: Locations
    network: PodNetwork = field(default_factory=PodNetwork)

    @property
    def directory(self) -> Path:
        """Everything that goes with the cluster."""
        return self.locations.cluster

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / "admin.kubeconfig"

    @property
    def registry(self) -> str:
        """Host and port of the registry, as image references name it."""
        return services.registry_address(self.network)

    @property
    def ports(self) -> dict[str, int]:
        """Fixed ones on the bridge, which is ours; on loopback whatever was free at the first start."""
        return ports.remembered(self.directory / "ports.json", LOOPBACK_PORTS) | BRIDGE_PORTS

    @property
    def volumes(self) -> Path:
        """One folder per PersistentVolume."""
        return self.directory / "volumes"

    @property
    def corefile(self) -> Path:
        """CoreDNS' configuration."""
        return self.directory / "Corefile"

    @property
    def registry_config(self) -> Path:
        """The registry's configuration."""
        return self.directory / "registry.yaml"

    @property
    def boot_record(self) -> Path:
        """In which boot of the machine the cluster was last started."""
        return self.directory / "boot-id"

    @property
    def kernel_record(self) -> Path:
        """The kernel settings before the first start."""
        return self.directory / "kernel-settings.json"

    @property
    def folders_record(self) -> Path:
        """The shared folders that were not there before the first start."""
        return self.directory / "absent-folders.json"

    @property
    def containerd(self) -> Containerd:
        """Our containerd."""
        return Containerd(self.directory / "containerd", self.registry)


def from_environment(locations: Locations, environment: Mapping[str, str] = os.environ) -> HostLayout:
    """The layout with the pod range that the user may have chosen."""
    chosen = environment.get("LOCAL_CLUSTER_POD_RANGE")
    return HostLayout(locations, PodNetwork(chosen) if chosen else PodNetwork())
