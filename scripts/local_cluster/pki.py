"""The certificates of a cluster, made with openssl: who may call whom, in Kubernetes' own subjects and groups."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster.command import require, run

VALID_DAYS = 3650
AUTHORITIES = ("ca", "etcd-ca", "front-proxy-ca")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. `groups` become organisations: that is how the API server reads groups."""

    name: str
    common_name: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    signer: str = "ca"


def control_plane_certificates(api_hosts: Sequence[str]) -> tuple[Certificate, ...]:
    """etcd, the API server, and the clients that every control plane has."""
    service_names = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    return (
        Certificate("etcd-server", "etcd", hosts=("localhost", "127.0.0.1"), signer="etcd-ca"),
        Certificate("etcd-client", "kube-apiserver", signer="etcd-ca"),
        Certificate("kube-apiserver", "kube-apiserver", hosts=("localhost", *service_names, *api_hosts)),
        Certificate("kubelet-client", "kube-apiserver-kubelet-client", groups=("system:masters",)),
        Certificate("front-proxy-client", "front-proxy-client", signer="front-proxy-ca"),
        Certificate("admin", "kubernetes-admin", groups=("system:masters",)),
        Certificate("kube-controller-manager", "system:kube-controller-manager"),
        Certificate("kube-scheduler", "system:kube-scheduler"),
    )


def node_certificates(node: str, address: str) -> tuple[Certificate, ...]:
    """The kubelet (client and server in one), and what else runs beside it."""
    return (
        Certificate("kubelet", f"system:node:{node}", groups=("system:nodes",), hosts=(node, address, "127.0.0.1")),
        Certificate("kube-proxy", "system:kube-proxy"),
        Certificate("coredns", "system:coredns"),
        Certificate("storage-provisioner", "system:storage-provisioner"),
    )


def extension_config(certificate: Certificate) -> str:
    """The openssl configuration that says what the certificate is good for."""
    lines = [
        "[req]",
        "distinguished_name = subject",
        "x509_extensions = extensions",
        "[subject]",
        "[extensions]",
        "basicConstraints = critical,CA:FALSE",
        "keyUsage = critical,digitalSignature",
        "extendedKeyUsage = clientAuth,serverAuth" if certificate.hosts else "extendedKeyUsage = clientAuth",
    ]
    if certificate.hosts:
        lines.append(f"subjectAltName = {','.join(map(_alternative_name, certificate.hosts))}")
    return "\n".join(lines) + "\n"


def subject(certificate: Certificate) -> str:
    """The subject as openssl takes it."""
    return "".join(f"/O={group}" for group in certificate.groups) + f"/CN={certificate.common_name}"


def _alternative_name(host: str) -> str:
    return f"IP:{host}" if host.replace(".", "").isdigit() else f"DNS:{host}"


class Pki:
    """A folder of keys and certificates; what is already there stays, so that a restart keeps its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def certificate(self, name: str) -> Path:
        """The path of a certificate."""
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The path of a private key."""
        return self.directory / f"{name}.key"

    def create(self, certificates: Sequence[Certificate]) -> None:
        """Makes the authorities, the service account key, and every certificate that is missing."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for authority in AUTHORITIES:
            if not self.certificate(authority).exists():
                self._make(authority, ["-subj", f"/CN={authority}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])
        if not self.key("service-account").exists():
            self._make_service_account_key()
        for certificate in certificates:
            if not self.certificate(certificate.name).exists():
                self._sign(certificate)

    def _sign(self, certificate: Certificate) -> None:
        config = self.directory / f"{certificate.name}.cnf"
        config.write_text(extension_config(certificate))
        signer = ["-CA", str(self.certificate(certificate.signer)), "-CAkey", str(self.key(certificate.signer))]
        self._make(certificate.name, ["-subj", subject(certificate), "-config", str(config), *signer])

    def _make(self, name: str, arguments: Sequence[str]) -> None:
        openssl = require("openssl", "Install it with your package manager.")
        fresh = self.directory / f"{name}.crt.new"
        # The certificate appears last and whole: a key without one is made again.
        output = ["-keyout", str(self.key(name)), "-out", str(fresh), "-days", str(VALID_DAYS)]
        run([openssl, "req", "-x509", *_KEY, *output, *arguments])
        fresh.rename(self.certificate(name))

    def _make_service_account_key(self) -> None:
        fresh = self.directory / "service-account.key.new"
        openssl = require("openssl", "Install it with your package manager.")
        run([openssl, "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", fresh])
        run([openssl, "ec", "-in", fresh, "-pubout", "-out", self.directory / "service-account.pub"])
        shutil.move(fresh, self.key("service-account"))
