"""A containerd of our own, beside any other: own root, state, socket and CNI network, and the local registry over plain
http.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_cluster import files
from local_cluster.command import run, succeeds
from local_cluster.errors import LocalClusterError
from local_cluster.locations import LONGEST_SOCKET_PATH
from local_cluster.network import BRIDGE, PodNetwork
from local_cluster.process import PROC
from local_cluster.waiting import wait_until

CNI_NETWORK = "finetune-operator"
CNI_PLUGINS = Path("/usr/lib/cni")
PAUSE_IMAGE = "local-cluster/pause:1"
RUNTIME_PROGRAMS = ("containerd-shim-runc-v2", "runc")


@dataclass(frozen=True)
class Containerd:
    """Its folder, and what lies where in it."""

    directory: Path
    registry: str
    snapshotter: str = "overlayfs"

    @property
    def socket(self) -> Path:
        """Where it listens; our processes are known by it."""
        return self.directory / "containerd.sock"

    @property
    def state(self) -> Path:
        """What it keeps of running containers."""
        return self.directory / "state"

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.directory / "config.toml"

    @property
    def cni_config(self) -> Path:
        """The folder with the pods' network."""
        return self.directory / "cni"

    @property
    def hosts(self) -> Path:
        """The folder with one folder per registry."""
        return self.directory / "certs.d"

    def command(self) -> list[str]:
        """How it is started."""
        return ["containerd", "--config", str(self.config)]

    def ctr(self, *arguments: str | Path) -> list[str | Path]:
        """A call of its command line client, in the namespace of Kubernetes."""
        return ["ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments]


def render_config(containerd: Containerd) -> str:
    """containerd's configuration. Paths of runc and of network namespaces are ours, so that `down` finds everything."""
    root = containerd.directory
    return f"""version = 2
root = "{root / "root"}"
state = "{containerd.state}"
oom_score = 0

[grpc]
  address = "{containerd.socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{containerd.registry}/{PAUSE_IMAGE}"
  # A host that is a container itself may not lower the score, and every sandbox would fail.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  max_concurrent_downloads = 4

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{containerd.cni_config}"

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{containerd.hosts}"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{containerd.snapshotter}"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "runc"
  Root = "{root / "runc"}"
  SystemdCgroup = false
"""


def render_cni(network: PodNetwork, leases: Path) -> str:
    """The pods' network: our bridge, addresses from its range. Masquerading is in our own nftables table."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(leases),
            "ranges": [[{"subnet": network.pod_range, "gateway": network.gateway}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": CNI_NETWORK, "plugins": [bridge]}, indent=2)


def render_registry_host(registry: str) -> str:
    """Tells containerd that the local registry speaks plain http."""
    return f'server = "http://{registry}"\n\n[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n'


def write_configuration(containerd: Containerd, network: PodNetwork) -> None:
    """Everything containerd reads."""
    if len(str(containerd.socket)) > LONGEST_SOCKET_PATH:
        raise LocalClusterError(
            f"{containerd.socket} is longer than a Unix socket's path may be; set XDG_STATE_HOME to a shorter folder"
        )
    registry_hosts = containerd.hosts / containerd.registry
    for folder in (containerd.cni_config, registry_hosts):
        folder.mkdir(parents=True, exist_ok=True)
    files.write(containerd.config, render_config(containerd))
    leases = containerd.directory / "leases"
    files.write(containerd.cni_config / "10-bridge.conflist", render_cni(network, leases))
    files.write(registry_hosts / "hosts.toml", render_registry_host(containerd.registry))


def usable_snapshotter(directory: Path) -> str:
    """overlayfs where this file system can carry it (not on another overlay), else plain copies."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        lower, upper, work, merged = (Path(folder) / name for name in ("lower", "upper", "work", "merged"))
        for part in (lower, upper, work, merged):
            part.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        if not succeeds(["mount", "-t", "overlay", "overlay", "-o", options, merged]):
            return "native"
        run(["umount", merged])
    return "overlayfs"


def healthy(containerd: Containerd) -> bool:
    """Whether it answers on its socket."""
    return containerd.socket.exists() and succeeds(containerd.ctr("version"))


def end_containers(containerd: Containerd) -> None:
    """Ends the shims of our containerd and their calls of runc; removes the sockets they keep outside our folder."""
    sockets = list(_shim_sockets(containerd))
    for pid in runtime_processes(containerd):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not runtime_processes(containerd), timeout=5)
    for socket in sockets:
        socket.unlink(missing_ok=True)


def runtime_processes(containerd: Containerd) -> list[int]:
    """The pids of our containerd's shims and of the runc calls they make."""
    return [int(process.name) for process in PROC.glob("[0-9]*") if _belongs(process, containerd.directory)]


def _belongs(process: Path, directory: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Both get paths below our containerd's folder as arguments: its socket, or runc's root.
    return Path(words[0]).name in RUNTIME_PROGRAMS and any(word.startswith(f"{directory}/") for word in words[1:])


def _shim_sockets(containerd: Containerd) -> Iterator[Path]:
    for address in containerd.state.glob("io.containerd.runtime.v2.task/*/*/address"):
        yield Path(address.read_text().strip().removeprefix("unix://"))
