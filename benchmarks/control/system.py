"""What the benchmark asks of a system under test."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from local_cluster.control_plane import ControlPlane

Object = dict[str, Any]


@dataclass(frozen=True)
class Description:
    """How a system is told apart, and how its objects are found."""

    name: str
    title: str
    api_version: str
    plural: str
    job_label: str
    """Label of a child Job that holds the name of the resource it belongs to."""
    ended: str
    """What a column of `kubectl get` says of a resource that has ended well."""
    users: tuple[str, ...]
    """Its accounts, by which the audit log knows it."""

    def path(self, namespace: str, name: str = "") -> str:
        """URL path of its resources in a namespace, or of one."""
        return f"/apis/{self.api_version}/namespaces/{namespace}/{self.plural}{name and '/'}{name}"


class System(Protocol):
    """An operator that turns resources into Jobs."""

    @property
    def description(self) -> Description:
        """Who it is."""
        ...

    def define(self, plane: ControlPlane) -> None:
        """Install its CustomResourceDefinitions: a garbage collector younger than they are knows them at once."""
        ...

    def start(self, plane: ControlPlane) -> None:
        """Install the rest, start its processes and wait until it is ready."""
        ...

    def stop(self, plane: ControlPlane) -> None:
        """End its processes, and take away what would make the API server call them."""
        ...

    def pids(self, plane: ControlPlane) -> list[int]:
        """Its processes."""
        ...

    def resource(self, name: str) -> Object:
        """A new resource, the smallest that gives a training job."""
        ...


def pids_of(plane: ControlPlane, names: Iterable[str]) -> list[int]:
    """Process numbers of components that run."""
    identities = [plane.processes.identity(name) for name in names if plane.processes.running(name)]
    return [identity.pid for identity in identities if identity is not None]


def answers(url: str) -> bool:
    """Whether a page on this machine answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
