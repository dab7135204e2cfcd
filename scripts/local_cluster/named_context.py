"""A cluster of the user's, named by a context of their kubeconfig. This tool starts and deletes nothing there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_cluster import binaries, images
from local_cluster.cluster import Status
from local_cluster.command import run
from local_cluster.errors import CommandFailedError, LocalClusterError
from local_cluster.image_reference import ImageRef
from local_cluster.locations import Locations


class NamedContext:
    """Uses what the user has; images travel through a registry that the user names."""

    def __init__(self, context: str, locations: Locations, environment: Mapping[str, str] = os.environ) -> None:
        self._context = context
        self._locations = locations
        self._registry = environment.get("IMAGE_REGISTRY")

    @property
    def kubeconfig(self) -> Path:
        """A copy of the named context alone."""
        return self._locations.state / "context.kubeconfig"

    def up(self) -> None:
        """Writes the context into a kubeconfig of its own, so that the user's current context stays as it is."""
        content = run(self._kubectl("config", "view", "--minify", "--flatten", "--context", self._context))
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(content)

    def status(self) -> Status:
        """The nodes, as the API server sees them."""
        return nodes_of("context", self.kubeconfig, ["--context", self._context])

    def down(self) -> None:
        """Forgets the cluster; it is the user's."""
        self.kubeconfig.unlink(missing_ok=True)

    def load(self, image: ImageRef) -> str:
        """Pushes to the registry that the cluster pulls from."""
        if not self._registry:
            raise LocalClusterError(
                f"the cluster of context {self._context} has to pull {image.tag} from a registry, and none is named. "
                "Set IMAGE_REGISTRY to one that you may push to and it may pull from: IMAGE_REGISTRY=ghcr.io/<you>."
            )
        return images.push(image, self._registry)

    def _kubectl(self, *arguments: str) -> list[str]:
        return [str(binaries.path("kubectl")), *arguments]


def nodes_of(provider: str, kubeconfig: Path, access: Sequence[str]) -> Status:
    """Version and nodes of a cluster that others run."""
    kubectl = [str(binaries.path("kubectl")), *access, "--request-timeout=10s"]
    try:
        version = json.loads(run([*kubectl, "get", "--raw", "/version"]))["gitVersion"]
        listed = json.loads(run([*kubectl, "get", "nodes", "--output=json"]))["items"]
    except CommandFailedError as error:
        return Status(provider, str(kubeconfig), missing=(f"the API server does not answer: {error.output.strip()}",))
    nodes = {item["metadata"]["name"]: is_ready(item) for item in listed}
    missing = tuple(f"node {name} is not Ready" for name, ready in nodes.items() if not ready)
    return Status(provider, str(kubeconfig), version, nodes, missing=missing)


def is_ready(node: dict[str, Any]) -> bool:
    """Whether a Node's conditions say Ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
