"""What a training job needs of a cluster, seen on the one that the tool starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster_tool.calls import NAMESPACE, Kubectl, restricted_pod
from local_cluster.host_cluster import HostCluster
from local_cluster.waiting import wait_until

pytestmark = pytest.mark.cluster
Pod = Callable[..., dict[str, Any]]

ASK_API_SERVER = """
    import socket, ssl, urllib.request
    account = "/var/run/secrets/kubernetes.io/serviceaccount/"
    print(socket.gethostbyname("kubernetes.default.svc.cluster.local"))
    request = urllib.request.Request("https://kubernetes.default.svc/version")
    request.add_header("Authorization", "Bearer " + open(account + "token").read())
    trusted = ssl.create_default_context(cafile=account + "ca.crt")
    print(urllib.request.urlopen(request, context=trusted, timeout=10).status)
"""
SERVE = """
    import http.server
    http.server.HTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
ASK_PEERS = """
    import socket, time, urllib.request
    for name in ("headless", "virtual"):
        for _ in range(100):
            try:
                print(name, urllib.request.urlopen(f"http://{name}.cluster-tool.svc:8000/", timeout=5).status)
                break
            except OSError:
                time.sleep(0.2)
"""


def test_a_restricted_pod_resolves_names_and_reaches_the_api_server(kubectl: Kubectl, namespace: str, pod: Pod) -> None:
    kubectl.apply(pod("asks", ASK_API_SERVER))
    assert kubectl.wait_ended("asks") == "Succeeded", kubectl.logs("asks")
    assert kubectl.logs("asks").split() == ["10.96.0.1", "200"]


def test_pods_reach_each_other_by_headless_and_virtual_service(kubectl: Kubectl, namespace: str, pod: Pod) -> None:
    server = pod("serves", SERVE)
    server["metadata"]["labels"] = {"app": "serves"}
    kubectl.apply(server, service("headless", clusterIP="None"), service("virtual"), pod("asks-peers", ASK_PEERS))
    assert kubectl.wait_ended("asks-peers") == "Succeeded"
    assert kubectl.logs("asks-peers").splitlines() == ["headless 200", "virtual 200"]


def test_a_job_completes(kubectl: Kubectl, namespace: str, image: str) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "counts", "namespace": NAMESPACE},
        "spec": {
            "completions": 2,
            "parallelism": 2,
            "completionMode": "Indexed",
            "template": {"spec": restricted_pod(image, "print(1)")},
        },
    }
    kubectl.apply(job)
    assert wait_until(lambda: kubectl.get("job", "counts")["status"].get("succeeded") == 2, 60)


def test_a_claim_is_bound_written_by_any_user_and_removed_with_its_data(
    kubectl: Kubectl, namespace: str, pod: Pod, host_cluster: HostCluster
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "workspace", "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    mounts = [{"name": "workspace", "mountPath": "/workspace"}]
    writer = pod("writes", "open('/workspace/result', 'w').write('done')", volumeMounts=mounts)
    writer["spec"]["volumes"] = [{"name": "workspace", "persistentVolumeClaim": {"claimName": "workspace"}}]
    kubectl.apply(claim, writer)
    assert kubectl.wait_ended("writes") == "Succeeded", kubectl.logs("writes")
    bound = kubectl.get("pvc", "workspace")
    folder = host_cluster.layout.volumes / bound["spec"]["volumeName"]
    assert (bound["status"]["phase"], (folder / "result").read_text()) == ("Bound", "done")
    kubectl("--namespace", NAMESPACE, "delete", "pod/writes", "pvc/workspace", "--timeout=50s")
    assert wait_until(lambda: not folder.exists(), 30)


def test_a_container_over_its_memory_limit_is_oom_killed(kubectl: Kubectl, namespace: str, pod: Pod) -> None:
    kubectl.apply(pod("eats", "x = bytearray(10**9)", resources={"limits": {"memory": "64Mi"}}))
    assert kubectl.wait_ended("eats") == "Failed"
    [state] = kubectl.get("pod", "eats")["status"]["containerStatuses"]
    ended = state["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_a_pod_outside_the_standard_is_refused(kubectl: Kubectl, namespace: str, pod: Pod) -> None:
    root = pod("root", "print(1)")
    root["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        kubectl.apply(root)


def service(name: str, **spec: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": "serves"}, "ports": [{"port": 8000}], **spec},
    }
