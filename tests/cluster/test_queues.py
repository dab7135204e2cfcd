"""Queues with real pods: a preempted training saves a checkpoint, makes room, and goes on from it."""

from typing import Any

import pytest

from cluster_jobs import FineTuneJobs
from kueue_manager import KueueManager

pytestmark = pytest.mark.cluster

KUEUE = "kueue.x-k8s.io/v1beta2"


def labels(priority: str) -> dict[str, str]:
    return {"kueue.x-k8s.io/queue-name": "main", "kueue.x-k8s.io/priority-class": priority}


@pytest.fixture
def queue(jobs: FineTuneJobs, kueue: KueueManager) -> None:
    """A queue with room for one stage at a time, and two priorities."""
    quotas = [{"name": "cpu", "nominalQuota": "300m"}, {"name": "memory", "nominalQuota": "64Gi"}]
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": "default", "resources": quotas}]}]
    preemption = {"withinClusterQueue": "LowerPriority"}
    apply(jobs, "ResourceFlavor", spec={})
    apply(jobs, "ClusterQueue", spec={"namespaceSelector": {}, "preemption": preemption, "resourceGroups": groups})
    apply(jobs, "LocalQueue", name="main", namespace=jobs.namespace, spec={"clusterQueue": "default"})
    apply(jobs, "WorkloadPriorityClass", name="low", value=1)
    apply(jobs, "WorkloadPriorityClass", name="high", value=100)


def apply(jobs: FineTuneJobs, kind: str, name: str = "default", namespace: str = "", **body: Any) -> None:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    jobs.kubectl.apply({"apiVersion": KUEUE, "kind": kind, "metadata": metadata, **body})


@pytest.mark.usefixtures("queue")
def test_a_preempted_training_makes_room_and_goes_on_from_its_checkpoint(jobs: FineTuneJobs) -> None:
    jobs.create("patient", labels("low"), training={"maxSteps": 100000, "batchSize": 4, "logEvery": 1})
    pod = jobs.wait_running("patient", "train")
    jobs.wait("patient", lambda s: (s.get("progress") or {}).get("step", 0) > 3)
    jobs.create("urgent", labels("high"), dryRun=True)
    held = jobs.wait_phase("patient", "Suspended")
    assert "queue main: " in held["message"]
    assert held["attempts"]["disruptions"] == 1
    jobs.wait_phase("urgent", "Succeeded")
    assert jobs.wait_running("patient", "train") != pod
    status = jobs.wait("patient", lambda s: s["progress"]["step"] > held["progress"]["step"])
    assert status["checkpoint"]["step"] >= held["progress"]["step"] > 0, "the steps before the preemption were saved"
    assert (status["attempts"]["count"], status["attempts"]["failures"]) == (2, 0)
    for name in ("patient", "urgent"):
        jobs.delete(name)
        jobs.wait_nothing_left(name)
