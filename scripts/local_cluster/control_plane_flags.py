"""The command line of each control plane component. Pure: a test reads what a cluster would be started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster.pki import Pki

SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
ISSUER = "https://kubernetes.default.svc.cluster.local"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class ControlPlaneSettings:
    """What may differ between control planes. Without `advertised`, no pod can reach the API server."""

    directory: Path
    ports: Mapping[str, int]
    address: str = "127.0.0.1"
    advertised: bool = False
    pod_range: str | None = None
    extra_api_server_flags: tuple[str, ...] = field(default=())

    @property
    def pki(self) -> Pki:
        """Its keys and certificates."""
        return Pki(self.directory / "pki")

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:{self.ports['kube-apiserver']}"

    @property
    def audit_log(self) -> Path:
        """One JSON object per answered request."""
        return self.directory / "logs" / "audit.log"

    @property
    def audit_policy(self) -> Path:
        """What is written into the audit log."""
        return self.directory / "audit-policy.json"

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of one of its clients."""
        return self.directory / f"{user}.kubeconfig"


def etcd(settings: ControlPlaneSettings) -> list[str]:
    """A single member without fsync: nothing in it outlives the machine anyway."""
    pki = settings.pki
    client = f"https://127.0.0.1:{settings.ports['etcd']}"
    peer = f"http://127.0.0.1:{settings.ports['etcd-peer']}"
    return [
        f"--data-dir={settings.directory / 'etcd'}",
        "--name=default",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={pki.certificate('etcd-server')}",
        f"--key-file={pki.key('etcd-server')}",
        f"--trusted-ca-file={pki.certificate('etcd-ca')}",
        "--client-cert-auth",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver(settings: ControlPlaneSettings) -> list[str]:
    """RBAC and the default admission plugins (PodSecurity among them) are on, as in a real cluster."""
    return [
        *_serving(settings),
        *_storage(settings.pki, settings.ports["etcd"]),
        *_authentication(settings.pki),
        *_auditing(settings),
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--shutdown-delay-duration=0s",
        *settings.extra_api_server_flags,
    ]


def _serving(settings: ControlPlaneSettings) -> list[str]:
    pki = settings.pki
    # The API server refuses to publish a loopback address as the endpoint of the kubernetes Service.
    reconciler = [] if settings.advertised else ["--endpoint-reconciler-type=none"]
    return [
        f"--bind-address={settings.address}",
        f"--advertise-address={settings.address}",
        f"--secure-port={settings.ports['kube-apiserver']}",
        f"--tls-cert-file={pki.certificate('kube-apiserver')}",
        f"--tls-private-key-file={pki.key('kube-apiserver')}",
        f"--kubelet-certificate-authority={pki.certificate('ca')}",
        f"--kubelet-client-certificate={pki.certificate('kubelet-client')}",
        f"--kubelet-client-key={pki.key('kubelet-client')}",
        # By name first, the default, would look the node up in the DNS of this machine.
        "--kubelet-preferred-address-types=InternalIP",
        *reconciler,
    ]


def _storage(pki: Pki, port: int) -> list[str]:
    return [
        f"--etcd-servers=https://127.0.0.1:{port}",
        f"--etcd-cafile={pki.certificate('etcd-ca')}",
        f"--etcd-certfile={pki.certificate('etcd-client')}",
        f"--etcd-keyfile={pki.key('etcd-client')}",
    ]


def _authentication(pki: Pki) -> list[str]:
    return [
        f"--client-ca-file={pki.certificate('ca')}",
        f"--requestheader-client-ca-file={pki.certificate('front-proxy-ca')}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki.certificate('front-proxy-client')}",
        f"--proxy-client-key-file={pki.key('front-proxy-client')}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={pki.directory / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki.key('service-account')}",
    ]


def _auditing(settings: ControlPlaneSettings) -> list[str]:
    return [f"--audit-log-path={settings.audit_log}", f"--audit-policy-file={settings.audit_policy}"]


def kube_controller_manager(settings: ControlPlaneSettings) -> list[str]:
    """One instance only, so no leader election: a restart takes over at once."""
    pki = settings.pki
    pods = ["--allocate-node-cidrs=false", f"--cluster-cidr={settings.pod_range}"] if settings.pod_range else []
    return [
        *_client_of_the_api_server(settings, "kube-controller-manager"),
        f"--service-account-private-key-file={pki.key('service-account')}",
        f"--root-ca-file={pki.certificate('ca')}",
        f"--cluster-signing-cert-file={pki.certificate('ca')}",
        f"--cluster-signing-key-file={pki.key('ca')}",
        "--use-service-account-credentials=true",
        *pods,
    ]


def kube_scheduler(settings: ControlPlaneSettings) -> list[str]:
    """One instance only, so no leader election."""
    return _client_of_the_api_server(settings, "kube-scheduler")


def _client_of_the_api_server(settings: ControlPlaneSettings, name: str) -> list[str]:
    kubeconfig = settings.kubeconfig(name)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={settings.ports[name]}",
        f"--cert-dir={settings.directory / 'pki' / name}",
        "--leader-elect=false",
    ]


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # One line per request, when it is answered: tests count writes.
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata"}],
}
