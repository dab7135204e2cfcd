"""Kueue, the real one, as a process beside a control plane: its CRDs, its webhooks by URL, and only batch Jobs.

Its manifests come out of the Go module that it is built from.
"""

import json
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml

from local_cluster import binaries, go_build, kubeconfig, ports
from local_cluster.api_client import ApiClient
from local_cluster.pki import Certificate, Pki
from local_cluster.process import Processes
from local_cluster.versions import COMPONENTS
from local_cluster.waiting import wait_until

Object = dict[str, Any]

COMPONENT = COMPONENTS["kueue"]
API = "/apis/kueue.x-k8s.io/v1beta2"
NAMESPACE = "kueue-system"
WEBHOOKS = "kueue-of-the-tests-"
START_SECONDS = 120.0
_OURS = {"batch", "kueue.x-k8s.io"}
# Without its own certificate management Kueue reads one file at a fixed place under /etc. It gets an /etc of its own: a
# mount that only its process sees, which needs no privileges.
_WITH_CERTIFICATES = """
mount -t tmpfs none /etc && mkdir -p /etc/kueue/metrics && ln -s "$1" /etc/kueue/metrics/certs && shift && exec "$@"
"""


class KueueManager:
    """Starts and ends Kueue for one API server; its folder holds its configuration, certificates and log."""

    def __init__(self, folder: Path, server: str, pki: Pki) -> None:
        self._folder = folder
        self._server = server
        self._pki = pki
        self._client = ApiClient.of_admin(server, pki)
        self._processes = Processes(folder)
        self._health, self._metrics, self._webhooks = ports.free(3)

    def install(self) -> None:
        """Apply CRDs and webhooks, and start the process."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pki.create([Certificate("kueue-webhook", "kueue", hosts=("127.0.0.1", "localhost"))])
        self._client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        sources = go_build.source_folder(COMPONENT, "sigs.k8s.io/kueue") / "config" / "components"
        for path in sorted((sources / "crd" / "bases").glob("*.yaml")):
            self._client.apply(yaml.safe_load(path.read_text()))
        assert wait_until(self._is_discovered, START_SECONDS), "Kueue's CRDs are not served"
        self.start()
        for document in yaml.safe_load_all((sources / "webhook" / "manifests.yaml").read_text()):
            self._client.apply(self._webhooks_of(document))

    def uninstall(self) -> None:
        """Take everything away; webhooks first, since without the process they would refuse every Job."""
        for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            for found in self._client.get(f"/apis/admissionregistration.k8s.io/v1/{kind}")["items"]:
                if found["metadata"]["name"].startswith(WEBHOOKS):
                    self._delete(f"/apis/admissionregistration.k8s.io/v1/{kind}/{found['metadata']['name']}")
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for found in self._client.get(crds)["items"]:
            if found["spec"]["group"] == "kueue.x-k8s.io":
                self._delete(f"{crds}/{found['metadata']['name']}")
        self._delete(f"/api/v1/namespaces/{NAMESPACE}")
        self.stop()

    def _delete(self, path: str) -> None:
        code, text = self._client.request("DELETE", path)
        assert code in (200, 202, 404), text

    def start(self) -> None:
        """Start the process, and wait until it serves."""
        kubeconfig.write(self._folder / "kubeconfig", self._server, self._pki, "admin")
        configuration = self._folder / "configuration.json"
        configuration.write_text(json.dumps(self._configuration()))
        in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", _WITH_CERTIFICATES, "sh"]
        kueue = [binaries.path(COMPONENT.name), f"--config={configuration}"]
        self._processes.start(
            COMPONENT.name,
            [*in_namespace, self._certificates, *kueue, f"--kubeconfig={self._folder / 'kubeconfig'}"],
            {"POD_NAMESPACE": NAMESPACE},
        )
        self._processes.wait_healthy(COMPONENT.name, self._is_ready, START_SECONDS)

    def stop(self) -> None:
        """End the process; its objects stay."""
        self._processes.stop([COMPONENT.name], grace=2.0)

    def _is_discovered(self) -> bool:
        _, text = self._client.request("GET", API)
        return '"workloads"' in text and self._client.answers("/openapi/v3/apis/kueue.x-k8s.io/v1beta2")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=3) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def _certificates(self) -> Path:
        folder = self._folder / "certificates"
        folder.mkdir(exist_ok=True)
        (folder / "tls.crt").write_bytes(self._pki.certificate("kueue-webhook").read_bytes())
        (folder / "tls.key").write_bytes(self._pki.key("kueue-webhook").read_bytes())
        return folder

    def _configuration(self) -> Object:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health}"},
            "metrics": {"bindAddress": f"127.0.0.1:{self._metrics}"},
            "webhook": {"port": self._webhooks, "host": "127.0.0.1", "certDir": str(self._certificates)},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "integrations": {"frameworks": ["batch/job"]},
            "featureGates": {"VisibilityOnDemand": False},  # an API server of its own, which nobody here asks
        }

    def _webhooks_of(self, document: Object) -> Object:
        """Kueue's webhooks for Jobs and its own kinds, to be called at this machine's loopback."""
        authority = b64encode(self._pki.certificate("ca").read_bytes()).decode()
        wanted = [hook for hook in document["webhooks"] if _OURS & {g for r in hook["rules"] for g in r["apiGroups"]}]
        for hook in wanted:
            path = hook["clientConfig"]["service"]["path"]
            hook["clientConfig"] = {"url": f"https://127.0.0.1:{self._webhooks}{path}", "caBundle": authority}
        name = f"{WEBHOOKS}{document['metadata']['name']}"
        return {**document, "metadata": {"name": name}, "webhooks": wanted}
