"""The only table of versions: every program the tool may start, where its release lies, and what builds it."""

from __future__ import annotations

from dataclasses import dataclass

KUBERNETES = "1.36.3"
ETCD = "3.6.8"
COREDNS = "1.15.0"
REGISTRY = "3.1.2"
HELM = "4.3.1"
KIND = "0.33.0"
KUEUE = "0.19.0"
VERSITYGW = "1.8.0"
FAKE_GCS_SERVER = "1.56.1"
OWN = "1"  # our own small programs; their cache key also holds a hash of their source


@dataclass(frozen=True)
class Release:
    """An official download. `{arch}` is amd64 or arm64; `member` is the program's place inside an archive."""

    url: str
    checksum_url: str
    member: str | None = None


@dataclass(frozen=True)
class Component:
    """One program at one version."""

    name: str
    version: str
    module: str  # folder under components/ that holds its go.mod
    package: str
    release: Release | None = None
    link_flags: str = ""
    minutes: float = 1.0  # to build on two cores, after the rows above it filled Go's cache


def _kubernetes(name: str, minutes: float) -> Component:
    url = f"https://dl.k8s.io/v{KUBERNETES}/bin/linux/{{arch}}/{name}"
    return Component(
        name=name,
        version=KUBERNETES,
        module="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        release=Release(url, f"{url}.sha256"),
        link_flags=f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES}",
        minutes=minutes,
    )


def _archive(base: str, file: str, checksums: str, member: str) -> Release:
    return Release(f"{base}/{file}", f"{base}/{checksums}", member)


_ETCD_FILE = f"etcd-v{ETCD}-linux-{{arch}}"
_HELM_FILE = f"helm-v{HELM}-linux-{{arch}}.tar.gz"
_COREDNS_FILE = f"coredns_{COREDNS}_linux_{{arch}}.tgz"
_REGISTRY_FILE = f"registry_{REGISTRY}_linux_{{arch}}.tar.gz"
_KIND_URL = f"https://kind.sigs.k8s.io/dl/v{KIND}/kind-linux-{{arch}}"

_TABLE = (
    _kubernetes("kube-apiserver", 4),
    _kubernetes("kube-controller-manager", 1.5),
    _kubernetes("kube-scheduler", 0.2),
    _kubernetes("kubelet", 0.5),
    _kubernetes("kube-proxy", 0.2),
    _kubernetes("kubectl", 0.5),
    Component(
        name="etcd",
        version=ETCD,
        module="etcd",
        package="go.etcd.io/etcd/server/v3",
        release=_archive(
            f"https://github.com/etcd-io/etcd/releases/download/v{ETCD}",
            f"{_ETCD_FILE}.tar.gz",
            "SHA256SUMS",
            f"{_ETCD_FILE}/etcd",
        ),
    ),
    Component(
        name="coredns",
        version=COREDNS,
        module="coredns",
        package=".",
        release=_archive(
            f"https://github.com/coredns/coredns/releases/download/v{COREDNS}",
            _COREDNS_FILE,
            f"{_COREDNS_FILE}.sha256",
            "coredns",
        ),
    ),
    Component(
        name="registry",
        version=REGISTRY,
        module="registry",
        package="github.com/distribution/distribution/v3/cmd/registry",
        release=_archive(
            f"https://github.com/distribution/distribution/releases/download/v{REGISTRY}",
            _REGISTRY_FILE,
            f"{_REGISTRY_FILE}.sha256",
            "registry",
        ),
        link_flags=f"-X github.com/distribution/distribution/v3/version.version=v{REGISTRY}",
    ),
    Component(
        name="helm",
        version=HELM,
        module="helm",
        package="helm.sh/helm/v4/cmd/helm",
        release=_archive("https://get.helm.sh", _HELM_FILE, f"{_HELM_FILE}.sha256sum", "linux-{arch}/helm"),
        link_flags=f"-X helm.sh/helm/v4/internal/version.version=v{HELM}",
    ),
    Component(
        name="kind",
        version=KIND,
        module="kind",
        package="sigs.k8s.io/kind",
        release=Release(_KIND_URL, f"{_KIND_URL}.sha256sum"),
    ),
    Component(name="kueue", version=KUEUE, module="kueue", package="sigs.k8s.io/kueue/cmd/kueue", minutes=3),
    Component(
        name="versitygw",
        version=VERSITYGW,
        module="versitygw",
        package="github.com/versity/versitygw/cmd/versitygw",
        link_flags=f"-X main.Version={VERSITYGW}",
        minutes=2,
    ),
    Component(
        name="fake-gcs-server",
        version=FAKE_GCS_SERVER,
        module="fake-gcs-server",
        package="github.com/fsouza/fake-gcs-server",
        minutes=3,
    ),
    Component(name="storage-provisioner", version=OWN, module="storage-provisioner", package=".", minutes=0.5),
    Component(name="pause", version=OWN, module="pause", package=".", minutes=0.1),
)

COMPONENTS: dict[str, Component] = {component.name: component for component in _TABLE}
