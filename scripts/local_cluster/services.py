"""What runs beside the node as plain processes: CoreDNS, the storage provisioner and the registry. Command lines and
files.

As processes they need no image, and are there before the first pod is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from local_cluster.network import PodNetwork
from local_cluster.node import NAME as NODE
from local_cluster.node import name_servers_file

REGISTRY_PORT = 5000
PROVISIONER = "local-cluster/folder"
# The registry would look for a trace collector on this host, and log every failure to find one.
ENVIRONMENT = {"OTEL_TRACES_EXPORTER": "none"}


def registry_address(network: PodNetwork) -> str:
    """Where containerd, this host and pods find the registry."""
    return f"{network.gateway}:{REGISTRY_PORT}"


def render_corefile(network: PodNetwork, ports: Mapping[str, int], kubeconfig: Path) -> str:
    """Cluster names from the API server, all others from the host's name servers."""
    return f""".:53 {{
    bind {network.gateway}
    errors
    health 127.0.0.1:{ports["coredns"]}
    ready 127.0.0.1:{ports["coredns-ready"]}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    forward . {name_servers_file()}
    cache 5
    loop
}}
"""


def coredns_command(corefile: Path) -> list[str]:
    """CoreDNS' flags."""
    return ["-conf", str(corefile)]


def provisioner_command(kubeconfig: Path, volumes: Path) -> list[str]:
    """The storage provisioner's flags."""
    return [f"--kubeconfig={kubeconfig}", f"--root={volumes}", f"--node={NODE}", f"--provisioner={PROVISIONER}"]


def render_registry_config(network: PodNetwork, storage: Path) -> str:
    """The registry's configuration: on the bridge only, blobs as files, deletion allowed."""
    return f"""version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {storage}
  delete:
    enabled: true
http:
  addr: {registry_address(network)}
"""


def registry_command(config: Path) -> list[str]:
    """The registry's arguments."""
    return ["serve", str(config)]
