"""The cluster that kind runs in Docker."""

from __future__ import annotations

from pathlib import Path

from local_cluster import binaries
from local_cluster.cluster import Status
from local_cluster.command import run, stream
from local_cluster.image_reference import ImageRef
from local_cluster.images import REPOSITORY_ROOT
from local_cluster.locations import Locations
from local_cluster.named_context import nodes_of

NAME = "finetune-operator"
CONFIG = REPOSITORY_ROOT / "kind-config.yaml"


class KindCluster:
    """A kind cluster with a kubeconfig of its own: the user's is not changed."""

    def __init__(self, locations: Locations) -> None:
        self._locations = locations

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._locations.state / "kind.kubeconfig"

    def up(self) -> None:
        """Creates the cluster, or renews the kubeconfig of the one that is there."""
        self._locations.state.mkdir(parents=True, exist_ok=True)
        if NAME in self._kind("get", "clusters").split():
            self._kind("export", "kubeconfig", "--name", NAME, "--kubeconfig", str(self.kubeconfig))
            return
        stream([binaries.path("kind"), *create_arguments(self.kubeconfig)])

    def status(self) -> Status:
        """The nodes, as the API server sees them."""
        if not self.kubeconfig.exists():
            return Status("kind", str(self.kubeconfig), missing=("the cluster is not started: local_cluster up",))
        return nodes_of("kind", self.kubeconfig, ["--kubeconfig", str(self.kubeconfig)])

    def down(self) -> None:
        """Deletes the cluster's containers."""
        self._kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(self.kubeconfig))
        self.kubeconfig.unlink(missing_ok=True)

    def load(self, image: ImageRef) -> str:
        """Copies the image from Docker to every node."""
        self._kind("load", "docker-image", image.tag, "--name", NAME)
        return image.tag

    def _kind(self, *arguments: str) -> str:
        return run([binaries.path("kind"), *arguments])


def create_arguments(kubeconfig: Path) -> list[str]:
    """The `kind create cluster` call."""
    return [
        "create",
        "cluster",
        f"--name={NAME}",
        f"--config={CONFIG}",
        f"--kubeconfig={kubeconfig}",
        "--wait=180s",
    ]
