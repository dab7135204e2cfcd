"""FineTuneJobs on a real API server, for tests of the CustomResourceDefinition."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_api.names import API_VERSION, GROUP, PLURAL
from local_cluster import binaries
from local_cluster.control_plane import ControlPlane
from local_cluster.waiting import wait_until

CRD_FILE = Path(__file__).parents[2] / "crds" / f"{GROUP}_{PLURAL}.yaml"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SERVED_SECONDS = 60

Document = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    code: int
    document: Document

    @property
    def accepted(self) -> bool:
        return self.code < 300

    @property
    def message(self) -> str:
        return str(self.document.get("message", ""))


@dataclass(frozen=True)
class JobApi:
    """Requests about FineTuneJobs in one namespace, as the administrator."""

    plane: ControlPlane
    namespace: str

    @classmethod
    def start(cls, plane: ControlPlane) -> None:
        """Starts a control plane with the CRD in it.

        The garbage collector learns of a CRD that is younger than itself only half a minute later.
        """
        plane.start("etcd")
        plane.start("kube-apiserver")
        cls.install(plane, "default")
        plane.start("kube-controller-manager")

    @classmethod
    def install(cls, plane: ControlPlane, namespace: str) -> "JobApi":
        """Applies the CRD of this repository and makes the namespace."""
        api = cls(plane, namespace)
        api._send("PATCH", f"{_CRDS}/{PLURAL}.{GROUP}?fieldManager=test&force=true", _crd(), "apply-patch+yaml")
        assert wait_until(lambda: plane.client().answers(api._path()), _SERVED_SECONDS), "the CRD is not served"
        api._send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}}, expect=(201, 409))
        return api

    def try_create(self, document: Document) -> Answer:
        """A create that is judged and not stored; unknown fields are errors, as with kubectl."""
        return self._request("POST", f"{self._path()}?dryRun=All&fieldValidation=Strict", document)

    def create(self, document: Document) -> Document:
        return self._send("POST", self._path(), document)

    def get(self, name: str) -> Document:
        return self._send("GET", self._path(name))

    def merge(self, name: str, patch: Document) -> Answer:
        """A merge patch that is judged and not stored."""
        return self._request("PATCH", f"{self._path(name)}?dryRun=All", patch, "merge-patch+json")

    def write_status(self, name: str, status: Document, **beside: Document) -> Answer:
        """A merge patch of the status subresource, which ignores whatever stands beside the status."""
        return self._request("PATCH", f"{self._path(name)}/status", {"status": status, **beside}, "merge-patch+json")

    def names_where(self, field: str, value: str) -> list[str]:
        found = self._send("GET", f"{self._path()}?fieldSelector={field}%3D{value}")
        return [item["metadata"]["name"] for item in found["items"]]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Standard output of kubectl in this namespace; an error carries what it said."""
        program = [str(binaries.path("kubectl")), f"--kubeconfig={self.plane.kubeconfig}", f"-n={self.namespace}"]
        done = subprocess.run([*program, *arguments], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _path(self, name: str = "") -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}{name and '/'}{name}"

    def _request(self, method: str, path: str, body: object = None, kind: str = "json") -> Answer:
        code, text = self.plane.client().request(method, path, body, f"application/{kind}")
        return Answer(code, json.loads(text))

    def _send(
        self, method: str, path: str, body: object = None, kind: str = "json", expect: tuple[int, ...] = (200, 201)
    ) -> Document:
        answer = self._request(method, path, body, kind)
        assert answer.code in expect, answer.message
        return answer.document


def _crd() -> Any:
    return yaml.safe_load(CRD_FILE.read_text())
