"""The cluster on this host survives crashes, goes without a trace, and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tool.calls import REPOSITORY, Kubectl, tool
from local_cluster import cgroups, containerd, host_teardown, kernel_settings, mounts
from local_cluster.host_cluster import HostCluster
from local_cluster.lock import if_unused

pytestmark = pytest.mark.cluster


def test_status_is_healthy_and_complete(kubectl: Kubectl) -> None:
    status = tool("status", "--json")
    found = json.loads(status.stdout)
    assert (status.returncode, found["healthy"], found["missing"]) == (0, True, [])
    assert all(found["nodes"].values())


def test_up_on_a_healthy_cluster_starts_nothing_again(kubectl: Kubectl, host_cluster: HostCluster) -> None:
    want_identities = {name: host_cluster.processes.identity(name) for name in host_cluster.processes.names()}
    assert tool("up").returncode == 0
    assert {name: host_cluster.processes.identity(name) for name in host_cluster.processes.names()} == want_identities


def test_up_brings_back_what_was_killed(
    kubectl: Kubectl, namespace: str, pod: Callable[..., dict[str, Any]], host_cluster: HostCluster
) -> None:
    kubectl.apply(pod("sleeps", "import time; time.sleep(600)"))
    kubectl("wait", f"--namespace={namespace}", "--for=condition=Ready", "pod/sleeps", "--timeout=60s")
    kill_everything(host_cluster)
    assert tool("status").returncode == 1
    up = tool("up")
    assert up.returncode == 0, up.stderr
    assert tool("status").returncode == 0
    kubectl.apply(pod("after", "print('alive')"))
    assert kubectl.wait_ended("after") == "Succeeded"


def test_down_leaves_nothing_behind_and_up_starts_anew(
    kubectl: Kubectl, namespace: str, pod: Callable[..., dict[str, Any]], host_cluster: HostCluster
) -> None:
    kubectl.apply(pod("left", "import time; time.sleep(600)"))
    kubectl("wait", f"--namespace={namespace}", "--for=condition=Ready", "pod/left", "--timeout=60s")
    settings = json.loads(host_cluster.layout.kernel_record.read_text())
    down = tool("down")
    assert down.returncode == 0, down.stderr
    assert traces(host_cluster, settings) == []
    assert tool("down").returncode == 0
    up = tool("up")
    assert up.returncode == 0, up.stderr
    kubectl("create", "namespace", namespace)  # the fixture deletes it


@pytest.mark.parametrize("seconds", [1.0, 4.0, 9.0])
def test_down_and_up_work_after_an_interrupted_up(kubectl: Kubectl, host_cluster: HostCluster, seconds: float) -> None:
    assert tool("down").returncode == 0
    starting = subprocess.Popen(
        [sys.executable, "-m", "local_cluster", "up"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)  # the moment of the interruption is what differs
    starting.send_signal(signal.SIGINT)
    starting.wait(timeout=60)
    if seconds > 4:  # otherwise straight from the half state up again
        assert tool("down").returncode == 0
        assert host_teardown.leftovers(host_cluster.layout) == []
    up = tool("up")
    assert up.returncode == 0, up.stderr
    assert tool("status").returncode == 0


def kill_everything(cluster: HostCluster) -> None:
    cluster.processes.kill(cluster.processes.names())
    for pid in containerd.runtime_processes(cluster.layout.containerd):
        os.kill(pid, signal.SIGKILL)


def traces(cluster: HostCluster, settings: dict[str, str]) -> list[str]:
    """What is left of the cluster anywhere on this machine."""
    changed = [name for name, value in settings.items() if (kernel_settings.SYSTEM / name).read_text().strip() != value]
    mine = [str(folder) for folder in Path("/run/containerd").glob("s/*")]
    interfaces = [name.name for name in Path("/sys/class/net").glob("veth*")]
    points = [point for point in mounts.mount_points(mounts.MOUNTINFO.read_text()) if "cni-" in point]
    with if_unused(cluster.layout.locations.images_lock) as unused:  # a build that runs now keeps its own mounts
        points += mounts.present(cluster.layout.locations.images) if unused else []
    groups = [str(g) for h in cgroups.mounted_here() for g in h.root.glob("**/*kubepods*")]
    return [
        *host_teardown.leftovers(cluster.layout),
        *changed,
        *mine,
        *interfaces,
        *points,
        *groups,
        *processes(cluster),
    ]


def processes(cluster: HostCluster) -> list[str]:
    """Processes that have our folder in their command line, and the ones that hold pods."""
    lines = {
        folder.name: (folder / "cmdline").read_bytes().decode(errors="replace")
        for folder in Path("/proc").glob("[0-9]*")
        if (folder / "cmdline").exists()
    }
    ours = f"{cluster.layout.directory}/"
    return [f"{pid} {line}" for pid, line in lines.items() if ours in line or line.startswith("/pause")]
