"""Kernel settings that a node changes: written down before the first change, put back when the cluster goes."""

from __future__ import annotations

import json
from pathlib import Path

SYSTEM = Path("/proc/sys")
# What kubelet, kube-proxy and the bridge plugin are known to write.
CHANGED = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def remember(record: Path, system: Path = SYSTEM) -> None:
    """Writes the present values down, once: a second start must not take changed values for the original ones."""
    if record.exists():
        return
    values = {name: (system / name).read_text().strip() for name in CHANGED if (system / name).exists()}
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps(values, indent=2))
    fresh.rename(record)


def restore(record: Path, system: Path = SYSTEM) -> None:
    """Puts back what differs."""
    if not record.exists():
        return
    for name, value in json.loads(record.read_text()).items():
        setting = system / name
        if setting.exists() and setting.read_text().strip() != value:
            setting.write_text(value)
    record.unlink()


def forward_packets(system: Path = SYSTEM) -> None:
    """Lets the host route between pods and the outside."""
    (system / "net/ipv4/ip_forward").write_text("1")
