"""A cluster for the tests of the tool that starts it. It is the machine's own, and as it was when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster_tool.calls import NAMESPACE, Kubectl, restricted_pod, tool
from local_cluster import clusters, images
from local_cluster.host_cluster import HostCluster
from local_cluster.image_reference import ImageRef
from local_cluster.waiting import wait_until

TEST_IMAGE = "local-cluster/test:1"


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    """A cluster that is up; one that was down before is down again when the tests end."""
    was_up = clusters.chosen().status().healthy
    up = tool("up")
    assert up.returncode == 0, up.stderr
    yield Kubectl(clusters.chosen().kubeconfig)
    if not was_up:
        assert tool("down").returncode == 0


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """An empty namespace that takes restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    # Pods are refused until the controller manager has made the account they run as.
    assert wait_until(lambda: "default" in kubectl("--namespace", NAMESPACE, "get", "serviceaccounts"), 30)
    yield NAMESPACE
    kubectl("delete", "namespace", NAMESPACE, "--timeout=50s")


@pytest.fixture(scope="session")
def built_image(tmp_path_factory: pytest.TempPathFactory) -> ImageRef:
    """An image with Python in it, built as the project's own are."""
    folder = tmp_path_factory.mktemp("image")
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text("ARG BASE_IMAGE=python:3.11-slim-bookworm\nFROM ${BASE_IMAGE}\nUSER 65532:65532\n")
    return images.build(dockerfile, TEST_IMAGE, context=folder)


@pytest.fixture
def image(kubectl: Kubectl, built_image: ImageRef) -> str:
    """The reference that pods use; loaded for each test, since an earlier one may have taken the registry down."""
    return images.load(built_image)


@pytest.fixture
def host_cluster(kubectl: Kubectl) -> HostCluster:
    """The cluster on this host; skips where kind or a named context was chosen."""
    cluster = clusters.chosen()
    if not isinstance(cluster, HostCluster):
        pytest.skip("the cluster is not one that this tool runs on the host")
    return cluster


@pytest.fixture
def pod(image: str) -> Callable[..., dict[str, Any]]:
    """Builds a pod that runs a Python program under the restricted standard."""

    def build(name: str, program: str, **container: Any) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": restricted_pod(image, program, **container),
        }

    return build
