"""How the tests speak to the tool and to the cluster it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from local_cluster import binaries
from local_cluster.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
NAMESPACE = "cluster-tool"


def tool(*arguments: str, timeout: float = 540) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "local_cluster", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts")},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Kubectl:
    """kubectl on the cluster under test."""

    def __init__(self, kubeconfig: Path) -> None:
        self._command = [str(binaries.path("kubectl")), f"--kubeconfig={kubeconfig}", "--request-timeout=30s"]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        finished = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def apply(self, *manifests: dict[str, Any]) -> None:
        self("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}))

    def get(self, *what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("--namespace", NAMESPACE, "get", *what, "--output=json"))
        return found

    def phase(self, pod: str) -> str:
        return str(self.get("pod", pod)["status"].get("phase"))

    def logs(self, pod: str) -> str:
        return self("--namespace", NAMESPACE, "logs", pod)

    def wait_ended(self, pod: str, timeout: float = 120) -> str:
        assert wait_until(lambda: self.phase(pod) in ("Succeeded", "Failed"), timeout), self.describe(pod)
        return self.phase(pod)

    def describe(self, pod: str) -> str:
        return self("--namespace", NAMESPACE, "describe", "pod", pod)


def restricted_pod(image: str, program: str, **container: Any) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1234,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": image,
                "command": ["python3", "-c", textwrap.dedent(program)],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                **container,
            }
        ],
    }
