"""The pods' network on the host: one bridge with an address that pods can reach, and one nftables table that
masquerades.

Everything has our name, so that taking it away needs no list. kube-proxy's own tables go with the cluster, too.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster.command import require, run, succeeds
from local_cluster.errors import LocalClusterError

BRIDGE = "ftj0"
TABLE = "finetune-operator"
KUBE_PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_BRIDGE_PORTS = Path(f"/sys/class/net/{BRIDGE}/brif")
_INSTALL = "Install iproute2 and nftables with your package manager."


@dataclass(frozen=True)
class PodNetwork:
    """The range that pods get addresses from. Its first address is the host's, on the bridge."""

    pod_range: str = "10.88.0.0/16"

    @property
    def gateway(self) -> str:
        """The host's address on the bridge."""
        return str(next(ipaddress.ip_network(self.pod_range).hosts()))

    @property
    def gateway_with_prefix(self) -> str:
        """The same with the range's length."""
        return f"{self.gateway}/{ipaddress.ip_network(self.pod_range).prefixlen}"


def masquerade_rules(network: PodNetwork) -> str:
    """The nftables table: what leaves the pods' range takes the host's address. Written so that it replaces itself."""
    return (
        f"table ip {TABLE}\n"
        f"delete table ip {TABLE}\n"
        f"table ip {TABLE} {{\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat;\n"
        f"    ip saddr {network.pod_range} ip daddr != {network.pod_range} masquerade\n"
        "  }\n"
        "}\n"
    )


def create(network: PodNetwork) -> None:
    """Makes the bridge and the table, or leaves them as they are."""
    ip = require("ip", _INSTALL)
    if not _bridge_exists():
        _refuse_taken_range(network)
        run([ip, "link", "add", BRIDGE, "type", "bridge"])
    run([ip, "address", "replace", network.gateway_with_prefix, "dev", BRIDGE])
    run([ip, "link", "set", BRIDGE, "up"])
    run([require("nft", _INSTALL), "-f", "-"], stdin=masquerade_rules(network))
    _filter_bridged_traffic()


def remove() -> None:
    """Takes away the bridge, what hangs on it, our table and kube-proxy's."""
    ip = require("ip", _INSTALL)
    for port in _BRIDGE_PORTS.glob("*"):  # the pods' ends; those of a dead pod linger until the kernel gets to them
        succeeds([ip, "link", "delete", port.name])
    if _bridge_exists():
        run([ip, "link", "delete", BRIDGE])
    for family, table in (("ip", TABLE), *KUBE_PROXY_TABLES):
        if table_exists(family, table):
            run([require("nft", _INSTALL), "delete", "table", family, table])


def table_exists(family: str, table: str) -> bool:
    """Whether an nftables table is there."""
    return succeeds([require("nft", _INSTALL), "list", "table", family, table])


def leftovers() -> list[str]:
    """What `remove` would take away now."""
    found = [BRIDGE] if _bridge_exists() else []
    tables = (("ip", TABLE), *KUBE_PROXY_TABLES)
    return found + [f"nftables {family} {table}" for family, table in tables if table_exists(family, table)]


def overlapping(pod_range: str, routes: list[dict[str, Any]]) -> str | None:
    """The first route of this host whose addresses the pods would take; routes as `ip -j route` prints them."""
    wanted = ipaddress.ip_network(pod_range)
    for route in routes:
        others = route["dst"] != "default" and route.get("dev") != BRIDGE
        if others and wanted.overlaps(ipaddress.ip_network(route["dst"], strict=False)):
            return f"{route['dst']} dev {route.get('dev', '?')}"
    return None


def _refuse_taken_range(network: PodNetwork) -> None:
    routes = json.loads(run([require("ip", _INSTALL), "-j", "-4", "route"]) or "[]")
    taken = overlapping(network.pod_range, routes)
    if taken:
        raise LocalClusterError(
            f"the pod range {network.pod_range} overlaps this host's route {taken}. "
            "Choose another one: LOCAL_CLUSTER_POD_RANGE=10.89.0.0/16."
        )


def _bridge_exists() -> bool:
    return Path(f"/sys/class/net/{BRIDGE}").exists()


def _filter_bridged_traffic() -> None:
    # Without it, the answer of a Service's pod on the same bridge never passes the table that rewrote the question.
    if not BRIDGE_FILTER.exists():
        succeeds(["modprobe", "br_netfilter"])
    if not BRIDGE_FILTER.exists():
        raise LocalClusterError(
            "this kernel has no br_netfilter module, so Services would not work between pods of one bridge. "
            "Load it (modprobe br_netfilter), or use Docker and kind."
        )
    BRIDGE_FILTER.write_text("1")
