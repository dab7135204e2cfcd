"""A control plane without nodes, as tests and benchmarks use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster.control_plane import ControlPlane

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane(controller_manager=True) as started:
        yield started


def test_two_run_side_by_side(control_plane: ControlPlane) -> None:
    with ControlPlane() as other:
        assert other.server != control_plane.server
        assert (other.healthy("kube-apiserver"), control_plane.healthy("kube-apiserver")) == (True, True)
        directory = other.settings.directory
    assert not directory.exists()


def test_a_killed_api_server_comes_back_where_it_was(control_plane: ControlPlane) -> None:
    want_server = control_plane.server
    control_plane.kill("kube-apiserver")
    assert not control_plane.healthy("kube-apiserver")
    control_plane.start("kube-apiserver")
    assert (control_plane.server, control_plane.healthy("kube-apiserver")) == (want_server, True)


def test_a_paused_etcd_answers_again_when_resumed(control_plane: ControlPlane) -> None:
    control_plane.pause("etcd")
    assert not control_plane.healthy("etcd")
    control_plane.resume("etcd")
    assert control_plane.healthy("etcd")


def test_every_write_is_one_line_of_the_audit_log(control_plane: ControlPlane) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written", "namespace": "default"}}
    control_plane.client().apply(manifest)
    assert len(writes(control_plane.audit_log, "written")) == 1


def test_a_pod_can_be_created_as_soon_as_it_is_up(control_plane: ControlPlane) -> None:
    containers = [{"name": "main", "image": "none"}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "early", "namespace": "default"},
        "spec": {"containers": containers},
    }
    control_plane.client().apply(pod)
    assert control_plane.client().get("/api/v1/namespaces/default/pods/early")["status"]["phase"] == "Pending"


def writes(audit_log: Path, name: str) -> list[str]:
    events = [json.loads(line) for line in audit_log.read_text().splitlines()]
    return [
        event["verb"] for event in events if event.get("objectRef", {}).get("name") == name and event["verb"] != "get"
    ]
