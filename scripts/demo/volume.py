"""Copies files onto a claim, by way of a pod, so that it works on every cluster."""

import subprocess
from pathlib import Path
from typing import Any

from demo.kubectl import Kubectl
from local_cluster.progress import step

POD = "assets-loader"
FOLDER = "/assets"
USER = 65532


def fill(kubectl: Kubectl, namespace: str, claim: str, source: Path, image: str) -> None:
    """Copy everything under `source` to the root of `claim`, unless its file `complete` is there already."""
    with step(f"copying {', '.join(sorted(p.name for p in source.iterdir() if p.is_dir()))} onto the claim {claim}"):
        kubectl.apply(_pod(namespace, claim, image))
        try:
            kubectl("wait", "-n", namespace, f"pod/{POD}", "--for=condition=Ready", "--timeout=180s")
            if _marker(kubectl, namespace) != (source / "complete").read_text():
                _copy(kubectl, namespace, source)
        finally:
            kubectl("delete", "-n", namespace, "pod", POD, "--now", "--wait=true", check=False)


def _marker(kubectl: Kubectl, namespace: str) -> str:
    return kubectl("exec", "-n", namespace, POD, "--", "sh", "-c", f"cat {FOLDER}/complete 2>/dev/null || true")


def _copy(kubectl: Kubectl, namespace: str, source: Path) -> None:
    """The marker `complete` travels last, so a copy that was interrupted is made again."""
    names = sorted(p.name for p in source.iterdir() if p.name != "complete")
    with subprocess.Popen(["tar", "-c", "-C", str(source), *names, "complete"], stdout=subprocess.PIPE) as archive:
        kubectl(
            "exec", "-i", "-n", namespace, POD, "--", "tar", "-x", "-C", FOLDER, "--no-same-owner", stdin=archive.stdout
        )


def _pod(namespace: str, claim: str, image: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "loader",
                    "image": image,
                    "command": ["sleep", "3600"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "assets", "mountPath": FOLDER}],
                }
            ],
            "volumes": [{"name": "assets", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
