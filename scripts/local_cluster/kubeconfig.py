"""Renders kubeconfig files. They are JSON, which every YAML reader takes: no YAML library is needed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from local_cluster import files
from local_cluster.pki import Pki

CLUSTER = "finetune-operator"


def render(server: str, authority: bytes, certificate: bytes, key: bytes, user: str) -> str:
    """A kubeconfig with everything inside: it can be copied to another folder."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": CLUSTER, "cluster": {"server": server, "certificate-authority-data": _encode(authority)}}
        ],
        "users": [
            {"name": user, "user": {"client-certificate-data": _encode(certificate), "client-key-data": _encode(key)}}
        ],
        "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": CLUSTER,
    }
    return json.dumps(document, indent=2) + "\n"


def write(target: Path, server: str, pki: Pki, user: str) -> Path:
    """Writes the kubeconfig of one of the cluster's clients, readable by the owner only."""
    content = render(
        server,
        pki.certificate("ca").read_bytes(),
        pki.certificate(user).read_bytes(),
        pki.key(user).read_bytes(),
        user,
    )
    return files.write(target, content)


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()
