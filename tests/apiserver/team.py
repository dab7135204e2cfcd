"""One namespace of a cluster without nodes: its jobs, their children, and a hand that plays the kubelet."""

import json
import time
from collections.abc import Callable
from typing import Any

from builders import make_result
from finetune_api import names
from finetune_api.status import Phase, Stage
from job_documents import smallest
from local_cluster.api_client import FIELD_MANAGER, ApiClient
from local_cluster.control_plane import ControlPlane

Object = dict[str, Any]

PATHS = {
    "finetunejobs": f"/apis/{names.API_VERSION}",
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "events": "/apis/events.k8s.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "persistentvolumeclaims": "/api/v1",
    "pods": "/api/v1",
}
CHILDREN = ("jobs", "pods", "persistentvolumeclaims", "networkpolicies")
PATIENCE_SECONDS = 60.0


class Team:
    """What an administrator sees and does in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str, permissions: list[Object]) -> None:
        self.plane = plane
        self.namespace = namespace
        self._client: ApiClient = plane.client()
        self.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        self.apply(*permissions)

    def send(self, method: str, path: str, body: object = None, kind: str = "json") -> Object:
        code, text = self._client.request(method, path, body, f"application/{kind}")
        assert code < 300, f"{method} {path}: {code} {text}"
        document: Object = json.loads(text)
        return document

    def apply(self, *objects: Object) -> None:
        """Create, or bring to what is said."""
        for obj in objects:
            group = obj["apiVersion"]
            root = f"/apis/{group}" if "/" in group else f"/api/{group}"
            inside = f"/namespaces/{obj['metadata']['namespace']}" if "namespace" in obj["metadata"] else ""
            path = f"{root}{inside}/{obj['kind'].lower()}s/{obj['metadata']['name']}"
            self.send("PATCH", f"{path}?fieldManager={FIELD_MANAGER}&force=true", obj, "apply-patch+yaml")

    def path(self, resource: str, name: str = "") -> str:
        return f"{PATHS[resource]}/namespaces/{self.namespace}/{resource}{name and '/'}{name}"

    def list_all(self, resource: str) -> list[Object]:
        items: list[Object] = self.send("GET", self.path(resource))["items"]
        return items

    def submit(self, name: str, **spec: object) -> Object:
        """Create a FineTuneJob."""
        document = smallest(name)
        document["spec"] |= spec
        return self.send("POST", self.path("finetunejobs"), document)

    def job(self, name: str) -> Object:
        return self.send("GET", self.path("finetunejobs", name))

    def status(self, name: str) -> Object:
        status: Object = self.job(name).get("status") or {}
        return status

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase") or "")

    def condition(self, name: str, kind: str) -> Object:
        conditions = self.status(name).get("conditions") or []
        return next((c for c in conditions if c["type"] == kind), {})

    def change(self, resource: str, name: str, patch: Object) -> None:
        self.send("PATCH", self.path(resource, name), patch, "merge-patch+json")

    def delete(self, resource: str, name: str) -> None:
        self.send("DELETE", self.path(resource, name))

    def children(self) -> list[str]:
        """Everything in the namespace that belongs to a FineTuneJob."""
        return [
            f"{resource}/{obj['metadata']['name']}"
            for resource in CHILDREN
            for obj in self.list_all(resource)
            if names.LABEL_JOB_UID in (obj["metadata"].get("labels") or {})
        ]

    def wait(self, what: str, condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for something to come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}\n{self._summary()}"
            time.sleep(0.05)

    def _summary(self) -> str:
        jobs = [{"name": j["metadata"]["name"], **(j.get("status") or {})} for j in self.list_all("finetunejobs")]
        return json.dumps([{**job, "plan": "..."} for job in jobs], indent=1) + "\n".join(self.children())

    # The kubelet

    def stage_pods(self, job: str, stage: Stage | None = None) -> list[Object]:
        """Pods of a job that have not ended."""
        uid = self.job(job)["metadata"]["uid"]
        selector = f"{names.LABEL_JOB_UID}%3D{uid}" + (f",{names.LABEL_STAGE}%3D{stage}" if stage else "")
        pods: list[Object] = self.send("GET", f"{self.path('pods')}?labelSelector={selector}")["items"]
        return [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]

    def run_pod(self, pod: Object, ip: str = "127.0.0.1") -> None:
        """The pod's container has started."""
        self._report(pod, "Running", {"running": {"startedAt": _now()}}, podIP=ip, podIPs=[{"ip": ip}])

    def end_pod(self, pod: Object, message: str | None = None, code: int = 0) -> None:
        """The pod's container has ended; with the result of its stage unless told otherwise."""
        stage = Stage(pod["metadata"]["labels"][names.LABEL_STAGE])
        said = make_result(stage).termination_message() if message is None else message
        ended = {"exitCode": code, "reason": "Completed", "message": said, "startedAt": _now(), "finishedAt": _now()}
        self._report(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    def _report(self, pod: Object, phase: str, state: Object, **status: object) -> None:
        report = pod_report(phase, state, **status)
        path = f"{self.path('pods', pod['metadata']['name'])}/status"
        self.send("PATCH", path, report, "merge-patch+json")

    def work_through(self, *jobs: str) -> None:
        """End well whatever pods there are."""
        for job in jobs:
            for pod in self.stage_pods(job):
                self.end_pod(pod)

    def finish(self, *jobs: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Let all stages of jobs end well."""

        def ended() -> bool:
            self.work_through(*jobs)
            return all(Phase(self.phase(job) or "Pending").terminal for job in jobs)

        self.wait(f"jobs {jobs} end", ended, seconds)

    def advance_to(self, job: str, stage: Stage) -> Object:
        """Let a job come to a stage; returns the stage's pod."""

        def arrived() -> bool:
            for pod in self.stage_pods(job):
                if pod["metadata"]["labels"][names.LABEL_STAGE] == stage:
                    return True
                self.end_pod(pod)
            return False

        self.wait(f"{job} comes to stage {stage}", arrived)
        return self.stage_pods(job, stage)[0]


def pod_report(phase: str, state: Object, **status: object) -> Object:
    """What a kubelet writes about a stage's pod."""
    container = {
        "name": names.STAGE_CONTAINER,
        "image": "trainer:test",
        "imageID": "sha256:0",
        "ready": phase == "Running",
        "restartCount": 0,
        "state": state,
    }
    return {"status": {"phase": phase, "containerStatuses": [container], **status}}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
