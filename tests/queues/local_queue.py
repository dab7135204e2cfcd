"""A queue of one team: its quota, and the jobs that are sent to it."""

from typing import Any

from apiserver.team import Team
from finetune_operator.core.queueing import QUEUE_LABEL
from job_documents import smallest
from local_cluster.api_client import FIELD_MANAGER

Object = dict[str, Any]
KUEUE = "kueue.x-k8s.io/v1beta2"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


class Queue:
    """A ClusterQueue of the team's own, and the LocalQueue `main` that leads to it."""

    def __init__(self, team: Team, cpu: str, memory: str) -> None:
        self.team = team
        self.name = team.namespace
        self._quota = {"cpu": cpu, "memory": memory}

    def create(self) -> None:
        """Flavor, ClusterQueue and LocalQueue."""
        self._apply("ResourceFlavor", {}, name=self.name)
        self._apply("ClusterQueue", self._cluster_queue(), name=self.name)
        self.open()

    def open(self, name: str = "main") -> None:
        """The LocalQueue: from now on Jobs can be admitted."""
        self._apply("LocalQueue", {"clusterQueue": self.name}, name=name, namespace=self.team.namespace)

    def close(self, name: str = "main") -> None:
        """Take the LocalQueue away."""
        self.team.send("DELETE", f"/apis/{KUEUE}/namespaces/{self.team.namespace}/localqueues/{name}")

    def delete(self) -> None:
        """Take away what is not in the team's namespace."""
        for resource in ("clusterqueues", "resourceflavors"):
            self.team.send("DELETE", f"/apis/{KUEUE}/{resource}/{self.name}")

    def set_priority(self, name: str, value: int) -> None:
        """A WorkloadPriorityClass."""
        path = f"/apis/{KUEUE}/workloadpriorityclasses/{name}?fieldManager={FIELD_MANAGER}&force=true"
        document = {"apiVersion": KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}
        self.team.send("PATCH", path, document, "apply-patch+yaml")

    def submit(self, name: str, priority: str = "", queue: str = "main", **spec: object) -> Object:
        """Create a FineTuneJob with the queue's label; each of its stages asks for more than half of the quota."""
        document = smallest(name)
        document["metadata"]["labels"] = {QUEUE_LABEL: queue} | ({PRIORITY_LABEL: priority} if priority else {})
        document["spec"] |= {"resources": {"cpu": "3", "memory": "6Gi"}, **spec}
        return self.team.send("POST", self.team.path("finetunejobs"), document)

    def workloads(self) -> list[Object]:
        """Kueue's Workloads of the team."""
        path = f"/apis/{KUEUE}/namespaces/{self.team.namespace}/workloads"
        items: list[Object] = self.team.send("GET", path)["items"]
        return items

    def _cluster_queue(self) -> Object:
        quotas = [{"name": name, "nominalQuota": value} for name, value in self._quota.items()]
        return {
            "namespaceSelector": {},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [
                {"coveredResources": [*self._quota], "flavors": [{"name": self.name, "resources": quotas}]}
            ],
        }

    def _apply(self, kind: str, spec: Object, **metadata: str) -> None:
        inside = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
        path = f"/apis/{KUEUE}{inside}/{kind.lower()}s/{metadata['name']}?fieldManager={FIELD_MANAGER}&force=true"
        document = {"apiVersion": KUEUE, "kind": kind, "metadata": metadata, "spec": spec}
        self.team.send("PATCH", path, document, "apply-patch+yaml")
