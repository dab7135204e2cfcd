"""KWOK: one node without a machine, on which every pod runs at once and, when asked to, ends well.

A pod of a FineTuneJob ends with the result that its stage would report; other pods just end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from builders import make_result
from control import programs
from finetune_api import names
from finetune_api.status import Stage
from local_cluster import ports
from local_cluster.control_plane import ControlPlane
from local_cluster.errors import LocalClusterError

NODE = "node-0"
_NAME = "kwok"
_API = "kwok.x-k8s.io/v1alpha1"
_STAGE_KEY = f'.metadata.labels["{names.LABEL_STAGE}"]'
_Object = dict[str, Any]


class FakeNodes:
    """The KWOK process of one control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._port = ports.free(1)[0]

    def start(self, *, pods_end: bool) -> None:
        """Run pods from now on, and end them if so wished; replaces a KWOK that runs already."""
        self.stop()
        config = self._plane.settings.directory / "kwok.yaml"
        config.write_text(yaml.safe_dump_all([options(), *_node_stages(), *stages(pods_end=pods_end)]))
        self._plane.processes.start(_NAME, [programs.path("kwok"), *self._flags(config)])
        self._plane.processes.wait_healthy(_NAME, self._node_is_ready, 60.0)

    def stop(self) -> None:
        """End KWOK; its node and pods stay as they are."""
        self._plane.processes.stop([_NAME])

    def install(self) -> None:
        """The node, and the policy that puts every pod on it: there is no scheduler in this control plane."""
        client = self._plane.client()
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        }
        client.apply(node)
        for policy in placement():
            _post(self._plane, policy)

    def _flags(self, config: Path) -> list[str]:
        return [
            f"--config={config}",
            f"--kubeconfig={self._plane.kubeconfig}",
            "--manage-all-nodes=true",
            f"--server-address=127.0.0.1:{self._port}",
        ]

    def _node_is_ready(self) -> bool:
        conditions = self._plane.client().get(f"/api/v1/nodes/{NODE}").get("status", {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _node_stages() -> list[_Object]:
    """How KWOK itself plays a node that is ready and stays so."""
    folder = programs.sources(_NAME) / "kustomize/stage/node"
    files = ("fast/node-initialize.yaml", "heartbeat-with-lease/node-heartbeat-with-lease.yaml")
    return [yaml.safe_load((folder / file).read_text()) for file in files]


def options() -> _Object:
    """KWOK's own settings. Its pods have no network, so all of them have an address at which nothing answers."""
    return {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "manageAllNodes": True,
            "podPlayStageParallelism": 16,
            "podsOnNodeSyncParallelism": 16,
            "nodePlayStageParallelism": 1,
            "nodeLeaseDurationSeconds": 40,
            "nodeLeaseParallelism": 1,
        },
    }


def stages(*, pods_end: bool) -> list[_Object]:
    """What becomes of pods: running, gone when deleted and, when `pods_end`, succeeded."""
    always = [_stage("pod-runs", _phase("Pending"), _running()), _stop(), _deletion()]
    if not pods_end:
        return always
    ends = [
        _stage(
            f"pod-ends-{stage}",
            _phase("Running", label=("In", str(stage))),
            _succeeded(make_result(stage).termination_message()),
        )
        for stage in Stage
    ]
    other = _stage("pod-ends", _phase("Running", label=("DoesNotExist", "")), _succeeded(""))
    return [*always, *ends, other]


def _stage(name: str, selector: list[_Object], status: str) -> _Object:
    return {
        "apiVersion": _API,
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": selector},
            "next": {"statusTemplate": status},
        },
    }


def _deleted_in(*phases: str) -> list[_Object]:
    return [
        {"key": ".metadata.deletionTimestamp", "operator": "Exists"},
        {"key": ".status.phase", "operator": "In", "values": list(phases)},
    ]


def _stop() -> _Object:
    """As a kubelet, say that a deleted pod has stopped: the Job controller keeps it until then."""
    return _stage("pod-stops", _deleted_in("Pending", "Running"), "phase: Failed\n")


def _deletion() -> _Object:
    stage = _stage("pod-goes", _deleted_in("Succeeded", "Failed"), "")
    stage["spec"]["next"] = {"delete": True}
    return stage


def _phase(phase: str, label: tuple[str, str] | None = None) -> list[_Object]:
    wanted: list[_Object] = [
        {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
        {"key": ".status.phase", "operator": "In", "values": [phase]},
    ]
    if label is not None:
        operator, value = label
        wanted.append({"key": _STAGE_KEY, "operator": operator, **({"values": [value]} if value else {})})
    return wanted


def _running() -> str:
    condition = '- {type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}'
    state = "{running: {startedAt: {{ Now | Quote }}}}"
    return _status(
        "Running", state, ready=True, more=f"conditions:\n{condition}\npodIP: 127.0.0.1\npodIPs: [{{ip: 127.0.0.1}}]\n"
    )


def _succeeded(message: str) -> str:
    # A JSON string is also a YAML string; KWOK's template must find no action in it.
    said = json.dumps(message).replace("{{", '{{ "{{" }}')
    ended = "exitCode: 0, reason: Completed, startedAt: {{ Now | Quote }}, finishedAt: {{ Now | Quote }}"
    return _status("Succeeded", f"{{terminated: {{{ended}, message: {said}}}}}", ready=False)


def _status(phase: str, state: str, *, ready: bool, more: str = "") -> str:
    return (
        f"phase: {phase}\nstartTime: {{{{ Now | Quote }}}}\n{more}containerStatuses:\n"
        "{{ range .spec.containers }}"
        "- name: {{ .name | Quote }}\n  image: {{ .image | Quote }}\n  imageID: sha256:0\n  restartCount: 0\n"
        f"  ready: {json.dumps(ready)}\n  state: {state}\n"
        "{{ end }}"
    )


def placement() -> tuple[_Object, _Object]:
    """An admission policy that writes the node into every pod: no request and no process more."""
    api = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    expression = f'Object{{spec: Object.spec{{nodeName: "{NODE}"}}}}'
    policy = {
        "apiVersion": api,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "pods-are-placed"},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        },
    }
    binding = {
        "apiVersion": api,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "pods-are-placed"},
        "spec": {"policyName": "pods-are-placed"},
    }
    return policy, binding


def _post(plane: ControlPlane, obj: _Object) -> None:
    plural = {"MutatingAdmissionPolicy": "mutatingadmissionpolicies"}.get(obj["kind"], f"{obj['kind'].lower()}s")
    code, text = plane.client().request("POST", f"/apis/{obj['apiVersion']}/{plural}", obj)
    if code not in (201, 409):
        raise LocalClusterError(f"cannot create {obj['kind']}: {code} {text}")
