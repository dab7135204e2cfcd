"""How the systems under test get in: manifests applied by the administrator, then a token of their own account."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from local_cluster import binaries
from local_cluster.command import run
from local_cluster.control_plane import ControlPlane
from local_cluster.errors import LocalClusterError

Object = dict[str, Any]
TOKEN_SECONDS = 6 * 3600
SERVED_SECONDS = 60.0


def kustomized(folder: Path) -> list[Object]:
    """The objects that a kustomization describes."""
    return manifests(run([binaries.path("kubectl"), "kustomize", folder]))


def manifests(text: str) -> list[Object]:
    """The objects of a YAML stream."""
    return [obj for obj in yaml.safe_load_all(text) if obj]


def of_kinds(objects: Iterable[Object], *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [obj for obj in objects if obj["kind"] in kinds]


def apply(plane: ControlPlane, objects: Iterable[Object]) -> None:
    """Create objects, or bring them to what is said."""
    client = plane.client()
    for obj in objects:
        client.apply(obj)


def make_namespace(plane: ControlPlane, name: str) -> None:
    """A namespace."""
    apply(plane, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])


def kubeconfig(plane: ControlPlane, namespace: str, account: str) -> Path:
    """A kubeconfig with a fresh token of a service account."""
    cluster = {"server": plane.server, "certificate-authority": str(plane.settings.pki.certificate("ca"))}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": _token(plane, namespace, account)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path = plane.settings.directory / f"{account}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


def user_name(namespace: str, account: str) -> str:
    """The name of a service account in the audit log."""
    return f"system:serviceaccount:{namespace}:{account}"


def _token(plane: ControlPlane, namespace: str, account: str) -> str:
    spec = {"expirationSeconds": TOKEN_SECONDS}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    code, text = plane.client().request("POST", path, request)
    if code != 201:
        raise LocalClusterError(f"no token for {namespace}/{account}: {code} {text}")
    return str(json.loads(text)["status"]["token"])
