"""The local cluster with the operator in it, a restricted namespace, and a tiny model on a claim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_jobs import FineTuneJobs
from demo import installation, volume
from demo.kubectl import Kubectl
from kueue_manager import KueueManager
from local_cluster import clusters
from local_cluster import command_line as local_cluster
from local_cluster.host_cluster import HostCluster
from s3_server import S3Server, s3_server
from tiny_models import build_tiny_model

NAMESPACE = "finetune-e2e"


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    """The local cluster; one that was down before goes down again."""
    was_up = clusters.chosen().status().healthy
    assert local_cluster.main(["up"]) == 0
    yield Kubectl()
    if not was_up:
        assert local_cluster.main(["down"]) == 0


@pytest.fixture(scope="session")
def images(kubectl: Kubectl) -> installation.Images:
    return installation.make_images()


@pytest.fixture(scope="session")
def operator(kubectl: Kubectl, images: installation.Images) -> None:
    installation.install(kubectl, images)


@pytest.fixture(scope="session")
def namespace(
    kubectl: Kubectl, images: installation.Images, operator: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    kubectl.apply(_claim("assets"))
    kubectl.apply(_claim("models"))
    volume.fill(kubectl, NAMESPACE, "assets", _assets(tmp_path_factory.mktemp("assets")), images.trainer)
    yield NAMESPACE
    kubectl("delete", "namespace", NAMESPACE, "--timeout=180s")


def _claim(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


@pytest.fixture(scope="session")
def bucket(kubectl: Kubectl, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that pods reach, with rows in the bucket `data` and nothing in `models`; Secret `s3-keys`."""
    gateway = host_cluster("the S3 server").layout.network.gateway
    with s3_server(tmp_path_factory.mktemp("s3"), "data", "models", host=gateway) as server:
        server.put("data/good.jsonl", "\n".join(_lines()).encode())
        metadata = {"name": "s3-keys", "namespace": namespace}
        kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": server.environment})
        yield server


def host_cluster(what: str) -> HostCluster:
    """The cluster, which must be on this host, since `what` runs beside it."""
    cluster = clusters.chosen()
    if not isinstance(cluster, HostCluster):
        pytest.skip(f"{what} runs beside the cluster on this host, and this cluster is elsewhere")
    return cluster


def _lines() -> list[str]:
    words = ("yes", "no", "maybe") * 40
    return [json.dumps({"prompt": f"Say {word} again.", "completion": word}) for word in words]


def _assets(folder: Path) -> Path:
    build_tiny_model("llama", folder / "tiny-llama")
    data = folder / "data"
    data.mkdir()
    lines = _lines()
    (data / "good.jsonl").write_text("\n".join(lines) + "\n")
    lines[11] = '{"prompt": "broken", "completion": '
    (data / "bad.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "complete").write_text("tiny")
    return folder


@pytest.fixture(scope="session")
def kueue(kubectl: Kubectl, operator: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KueueManager]:
    """Kueue beside the API server; the operator starts again to follow it."""
    settings = host_cluster("Kueue").health.settings
    manager = KueueManager(tmp_path_factory.mktemp("kueue"), settings.server, settings.pki)
    manager.install()
    _restart_operator(kubectl)
    yield manager
    manager.uninstall()
    _restart_operator(kubectl)


def _restart_operator(kubectl: Kubectl) -> None:
    deployment = f"deployment/{installation.RELEASE}"
    kubectl("rollout", "restart", deployment, "-n", installation.NAMESPACE)
    kubectl("rollout", "status", deployment, "-n", installation.NAMESPACE, "--timeout=120s")


@pytest.fixture
def jobs(kubectl: Kubectl, namespace: str) -> FineTuneJobs:
    return FineTuneJobs(kubectl, namespace)
