"""What makes this host a node: kubelet and kube-proxy, their configuration and command lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import files
from local_cluster.cgroups import NAME as CGROUP
from local_cluster.control_plane_flags import DNS_SERVICE_ADDRESS
from local_cluster.network import PodNetwork
from local_cluster.pki import Pki

NAME = "local"
KUBELET_PORT = 10250
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_SYSTEM = Path("/etc/resolv.conf")


@dataclass(frozen=True)
class NodeSettings:
    """Where the node keeps its things and how it is reached."""

    directory: Path
    network: PodNetwork
    pki: Pki
    ports: Mapping[str, int]
    runtime_socket: Path
    cgroup_version_1: bool

    @property
    def kubelet_config(self) -> Path:
        """The kubelet's configuration file."""
        return self.directory / "kubelet.json"

    @property
    def kube_proxy_config(self) -> Path:
        """kube-proxy's configuration file."""
        return self.directory / "kube-proxy.json"

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of one of the node's clients."""
        return self.directory / f"{user}.kubeconfig"


def name_servers_file(resolved: Path = _RESOLVED, system: Path = _SYSTEM) -> Path:
    """The host's real name servers: systemd's stub listens on a loopback address, which in a pod is the pod's own."""
    return resolved if resolved.exists() else system


def kubelet_configuration(settings: NodeSettings) -> dict[str, Any]:
    """The kubelet's configuration. Nothing is reserved, and nothing evicted before the disk is full."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": settings.network.gateway,
        "port": KUBELET_PORT,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": settings.ports["kubelet"],
        "authentication": {
            "x509": {"clientCAFile": str(settings.pki.certificate("ca"))},
            "anonymous": {"enabled": False},
        },
        "tlsCertFile": str(settings.pki.certificate("kubelet")),
        "tlsPrivateKeyFile": str(settings.pki.key("kubelet")),
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(name_servers_file()),
        "containerRuntimeEndpoint": f"unix://{settings.runtime_socket}",
        "podLogsDir": str(settings.directory / "pod-logs"),
        "volumePluginDir": str(settings.directory / "volume-plugins"),
        **_resources(settings),
    }


def _resources(settings: NodeSettings) -> dict[str, Any]:
    return {
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": not settings.cgroup_version_1,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # One failure should be seen and retried quickly: this is a cluster for tests.
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "maxPods": 200,
    }


def kubelet_command(settings: NodeSettings) -> list[str]:
    """The kubelet's flags: what its configuration file cannot hold."""
    return [
        f"--config={settings.kubelet_config}",
        f"--kubeconfig={settings.kubeconfig('kubelet')}",
        f"--hostname-override={NAME}",
        f"--node-ip={settings.network.gateway}",
        f"--root-dir={settings.directory / 'kubelet'}",
        f"--cert-dir={settings.directory / 'kubelet-certificates'}",
    ]


def kube_proxy_configuration(settings: NodeSettings) -> dict[str, Any]:
    """nftables: own tables, which can be taken away whole. Connection tracking stays as the host has it."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": settings.network.pod_range,
        "hostnameOverride": NAME,
        "clientConnection": {"kubeconfig": str(settings.kubeconfig("kube-proxy"))},
        "healthzBindAddress": f"127.0.0.1:{settings.ports['kube-proxy']}",
        "metricsBindAddress": f"127.0.0.1:{settings.ports['kube-proxy-metrics']}",
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def kube_proxy_command(settings: NodeSettings) -> list[str]:
    """kube-proxy's flags."""
    return [f"--config={settings.kube_proxy_config}"]


def write_configuration(settings: NodeSettings) -> None:
    """Both configuration files, as JSON, which is YAML."""
    files.write(settings.kubelet_config, json.dumps(kubelet_configuration(settings), indent=2))
    files.write(settings.kube_proxy_config, json.dumps(kube_proxy_configuration(settings), indent=2))
