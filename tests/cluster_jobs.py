"""FineTuneJobs on a cluster, handled as a user does: with kubectl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from demo.kubectl import Kubectl


class FineTuneJobs:
    """FineTuneJobs on the cluster, as a user handles them."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace

    def create(self, name: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
        self.kubectl.apply(
            {
                "apiVersion": "slmops.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": name, "namespace": self.namespace, "labels": labels or {}},
                "spec": {
                    "model": {"source": "pvc://assets/tiny-llama"},
                    "dataset": {"train": {"source": "pvc://assets/data/good.jsonl"}},
                    "training": {"maxSteps": 20, "batchSize": 4, "logEvery": 1},
                    "evaluation": {"maxRows": 8, "generation": {"maxNewTokens": 4}},
                    "resources": {"cpu": "250m", "memory": "3Gi"},
                    "output": {"workspace": {"size": "1Gi"}},
                    **spec,
                },
            }
        )

    def get(self, name: str) -> dict[str, Any]:
        text = self.kubectl("get", "ftj", name, "-n", self.namespace, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else {}

    def status(self, name: str) -> dict[str, Any]:
        return self.get(name).get("status") or {}

    def wait(self, name: str, until: Callable[[dict[str, Any]], bool], seconds: float = 300) -> dict[str, Any]:
        """The status once `until` holds for it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status(name)
            if until(status):
                return status
            assert status.get("phase") not in ("Succeeded", "Failed"), f"{name} ended early: {status.get('message')}"
            time.sleep(0.5)
        raise AssertionError(f"{name} did not get there in {seconds} s: {json.dumps(self.status(name), indent=1)}")

    def wait_phase(self, name: str, phase: str, seconds: float = 300) -> dict[str, Any]:
        return self.wait(name, lambda status: status.get("phase") == phase, seconds)

    def wait_running(self, name: str, stage: str) -> str:
        """Name of the stage's pod once its container runs."""
        selector = f"slmops.dev/job-name={name},slmops.dev/stage={stage}"
        end = time.monotonic() + 300
        while time.monotonic() < end:
            listed = self.kubectl("get", "pods", "-n", self.namespace, "-l", selector, "-o", "json")
            for pod in json.loads(listed)["items"]:
                if pod["status"].get("phase") == "Running":
                    return str(pod["metadata"]["name"])
            assert self.status(name).get("phase") not in ("Succeeded", "Failed"), self.status(name).get("message")
            time.sleep(0.3)
        raise AssertionError(f"no pod of stage {stage} runs")

    def suspend(self, name: str, value: bool = True) -> None:
        """Set policy.suspend."""
        patch = json.dumps({"spec": {"policy": {"suspend": value}}})
        self.kubectl("patch", "ftj", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def children(self, name: str) -> list[str]:
        kinds = "jobs,pods,persistentvolumeclaims,networkpolicies"
        listed = self.kubectl("get", kinds, "-n", self.namespace, "-l", f"slmops.dev/job-name={name}", "-o", "name")
        return listed.split()

    def delete(self, name: str) -> None:
        self.kubectl("delete", "ftj", name, "-n", self.namespace, "--timeout=120s", "--ignore-not-found")

    def wait_nothing_left(self, name: str, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while self.children(name):
            assert time.monotonic() < end, f"left over: {self.children(name)}"
            time.sleep(1)
