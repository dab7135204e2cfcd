"""The chart on a real API server: what it installs is accepted without a warning, and grants no more than it must."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.helm_release import CHART, NAMESPACE, RELEASE, helm, render
from job_documents import smallest
from local_cluster import binaries
from local_cluster.control_plane import ControlPlane

pytestmark = pytest.mark.apiserver

_ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


class Kubectl:
    """kubectl on the test's API server."""

    def __init__(self, kubeconfig: Path) -> None:
        self._command = [str(binaries.path("kubectl")), f"--kubeconfig={kubeconfig}"]

    def run(self, *arguments: str, documents: list[dict[str, Any]] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs kubectl; `documents` are its standard input."""
        text = yaml.safe_dump_all(documents or [])
        return subprocess.run([*self._command, *arguments], input=text, capture_output=True, text=True, check=False)

    def apply(self, documents: list[dict[str, Any]], *options: str) -> str:
        done = self.run("apply", "--server-side", "--warnings-as-errors", *options, "-f", "-", documents=documents)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> Any:
        done = self.run("get", *arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    tool = Kubectl(control_plane.kubeconfig)
    for name in (NAMESPACE, "team-a", "team-b", "team-c"):
        tool.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": _RESTRICTED}}])
    return tool


@pytest.fixture
def release(control_plane: ControlPlane, kubectl: Kubectl) -> Any:
    """Installs the chart with values, and takes it away after the test."""
    assert kubectl

    def install(values: dict[str, Any]) -> str:
        arguments = ("upgrade", "--install", RELEASE, str(CHART), f"--namespace={NAMESPACE}")
        return helm(*arguments, values=values, kubeconfig=control_plane.kubeconfig)

    yield install
    helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", kubeconfig=control_plane.kubeconfig)


@pytest.mark.parametrize(
    "values",
    [{}, {"namespaces": ["team-a", "team-b"]}, {"replicas": 2}],
    ids=["default", "namespaced", "replicas"],
)
def test_the_api_server_has_no_warning(kubectl: Kubectl, values: dict[str, Any]) -> None:
    manifests = render({"crds": {"enabled": True}} | values).manifests
    assert kubectl.apply(manifests, "--dry-run=server").count("serverside-applied") == len(manifests)


def test_the_pod_is_admitted_where_the_restricted_standard_is_enforced(kubectl: Kubectl) -> None:
    rendered = render()
    kubectl.apply([rendered.one("ServiceAccount")])
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": NAMESPACE},
        "spec": rendered.pod,
    }
    assert "pod/probe serverside-applied" in kubectl.apply([pod], "--dry-run=server")
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = kubectl.run("apply", "--server-side", "--dry-run=server", "-f", "-", documents=[pod])
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr
    assert kubectl.run("delete", "serviceaccount", RELEASE, f"-n={NAMESPACE}").returncode == 0


def test_installed_with_no_values_and_upgraded_with_some(kubectl: Kubectl, release: Any) -> None:
    assert "STATUS: deployed" in release({})
    assert kubectl.get("deployment", RELEASE, f"-n={NAMESPACE}")["spec"]["replicas"] == 1
    release({"replicas": 2})
    assert kubectl.get("deployment", RELEASE, f"-n={NAMESPACE}")["spec"]["replicas"] == 2


def test_jobs_outlive_the_release(control_plane: ControlPlane, kubectl: Kubectl) -> None:
    arguments = (RELEASE, f"--namespace={NAMESPACE}")
    helm("install", arguments[0], str(CHART), arguments[1], kubeconfig=control_plane.kubeconfig)
    kubectl.run("wait", "--for=condition=Established", "crd/finetunejobs.slmops.dev", "--timeout=60s")
    kubectl.apply([smallest("survivor")], "-n=team-a")
    helm("uninstall", *arguments, kubeconfig=control_plane.kubeconfig)
    assert kubectl.get("finetunejob", "survivor", "-n=team-a")["spec"]["task"] == "chat"


_GRANTED = {
    "finetunejobs.slmops.dev": {"get", "list", "watch", "delete"},
    "finetunejobs.slmops.dev/status": {"update"},
    "finetunejobs.slmops.dev/finalizers": {"update"},
    "jobs.batch": {"get", "list", "watch", "create", "delete", "patch"},
    "pods": {"list", "watch"},
    "persistentvolumeclaims": {"get", "list", "create"},
    "networkpolicies.networking.k8s.io": {"get", "list", "create"},
    "workloads.kueue.x-k8s.io": {"list", "watch", "patch"},
    "events.events.k8s.io": {"create"},
}


def test_the_operator_may_do_what_the_readme_says_in_its_namespaces_and_nothing_elsewhere(
    kubectl: Kubectl, release: Any
) -> None:
    release({"namespaces": ["team-a", "team-b"]})
    rules = {namespace: _rules(kubectl, namespace) for namespace in ("team-a", "team-b", "team-c", NAMESPACE)}
    want_own_rules = {"leases.coordination.k8s.io": {"create", "get", "update"}}
    assert rules == {"team-a": _GRANTED, "team-b": _GRANTED, "team-c": {}, NAMESPACE: want_own_rules}


def test_the_operator_may_do_what_the_readme_says_in_every_namespace(kubectl: Kubectl, release: Any) -> None:
    release({})
    assert _rules(kubectl, "team-c") == _GRANTED


def _rules(kubectl: Kubectl, namespace: str) -> dict[str, set[str]]:
    """Resource -> verbs that the operator's account has there, without what every account has, from the API server."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    done = kubectl.run("create", "--validate=false", f"--as={_ACCOUNT}", "-f", "-", "-o", "json", documents=[review])
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = {}
    for rule in json.loads(done.stdout)["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                kind, slash, part = resource.partition("/")
                name = f"{kind}{group and '.'}{group}{slash}{part}"
                found.setdefault(name, set()).update(rule["verbs"])
    return {name: verbs for name, verbs in found.items() if "selfsubject" not in name}
