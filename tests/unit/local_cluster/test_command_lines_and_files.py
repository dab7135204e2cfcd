from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from local_cluster import (
    addons,
    api_client,
    base_image,
    build_environment,
    cgroups,
    containerd,
    control_plane_flags,
    files,
    images,
    kubeconfig,
    mounts,
    network,
    node,
    ports,
    services,
)
from local_cluster.containerd import Containerd
from local_cluster.control_plane_flags import ControlPlaneSettings
from local_cluster.image_reference import Builder, ImageRef
from local_cluster.network import PodNetwork

PORTS = {
    "etcd": 1,
    "etcd-peer": 2,
    "kube-apiserver": 6443,
    "kube-controller-manager": 4,
    "kube-scheduler": 5,
    "kubelet": 6,
    "kube-proxy": 7,
    "kube-proxy-metrics": 8,
    "coredns": 9,
    "coredns-ready": 10,
}
NETWORK = PodNetwork()


@pytest.fixture
def settings(tmp_path: Path) -> ControlPlaneSettings:
    return ControlPlaneSettings(tmp_path, PORTS)


def test_only_a_reachable_api_server_publishes_its_endpoint(settings: ControlPlaneSettings, tmp_path: Path) -> None:
    reachable = ControlPlaneSettings(tmp_path, PORTS, address="10.88.0.1", advertised=True)
    assert "--endpoint-reconciler-type=none" in control_plane_flags.kube_apiserver(settings)
    assert "--endpoint-reconciler-type=none" not in control_plane_flags.kube_apiserver(reachable)
    assert "--advertise-address=10.88.0.1" in control_plane_flags.kube_apiserver(reachable)


def test_the_api_server_checks_rights_and_writes_an_audit_log(settings: ControlPlaneSettings) -> None:
    flags = control_plane_flags.kube_apiserver(settings)
    assert "--authorization-mode=Node,RBAC" in flags
    assert f"--audit-log-path={settings.audit_log}" in flags


@pytest.mark.parametrize("name", control_plane_flags.COMPONENTS)
def test_everything_listens_on_loopback(settings: ControlPlaneSettings, name: str) -> None:
    flags = getattr(control_plane_flags, name.replace("-", "_"))(settings)
    listening = [flag for flag in flags if flag.startswith(("--bind-address", "--listen"))]
    assert listening
    assert all("127.0.0.1" in flag for flag in listening)


def test_a_kubeconfig_holds_everything_it_needs() -> None:
    text = kubeconfig.render("https://127.0.0.1:1", b"authority", b"certificate", b"key", "admin")
    document = json.loads(text)
    [user] = document["users"]
    assert base64.b64decode(user["user"]["client-key-data"]) == b"key"
    assert document["current-context"] == document["contexts"][0]["name"]


def test_the_hosts_address_is_the_first_of_the_pod_range() -> None:
    assert PodNetwork("10.89.0.0/24").gateway_with_prefix == "10.89.0.1/24"


@pytest.mark.parametrize(
    ("route", "want_taken"),
    [
        ({"dst": "default", "dev": "eth0"}, False),
        ({"dst": "10.0.0.0/8", "dev": "vpn0"}, True),
        ({"dst": "10.88.3.4", "dev": "eth0"}, True),
        ({"dst": "10.88.0.0/16", "dev": network.BRIDGE}, False),
        ({"dst": "192.168.0.0/24", "dev": "eth0"}, False),
    ],
)
def test_a_pod_range_that_the_host_uses_is_noticed(route: dict[str, str], want_taken: bool) -> None:
    assert (network.overlapping(NETWORK.pod_range, [route]) is not None) == want_taken


def test_masquerading_replaces_its_own_table_only() -> None:
    rules = network.masquerade_rules(NETWORK)
    assert rules.count("table ip finetune-operator") == 3
    assert "flush ruleset" not in rules


def test_containerd_keeps_everything_in_its_folder() -> None:
    config = containerd.render_config(Containerd(Path("/state/containerd"), "10.88.0.1:5000"))
    paths = [line.split('"')[1] for line in config.splitlines() if ' = "/' in line and "bin_dir" not in line]
    assert paths
    assert all(path.startswith("/state/containerd/") for path in paths)


def test_pods_get_addresses_of_the_range_on_our_bridge() -> None:
    [bridge] = json.loads(containerd.render_cni(NETWORK, Path("/state/leases")))["plugins"]
    assert bridge["bridge"] == network.BRIDGE
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}]]


@pytest.mark.parametrize("version_1", [True, False])
def test_the_kubelet_takes_the_control_groups_that_are_mounted(settings: ControlPlaneSettings, version_1: bool) -> None:
    of_node = node.NodeSettings(settings.directory, NETWORK, settings.pki, PORTS, Path("/run/c.sock"), version_1)
    assert node.kubelet_configuration(of_node)["failCgroupV1"] is not version_1


def test_systemds_stub_is_not_handed_to_pods(tmp_path: Path) -> None:
    resolved, system = tmp_path / "resolved", tmp_path / "system"
    assert node.name_servers_file(resolved, system) == system
    resolved.touch()
    assert node.name_servers_file(resolved, system) == resolved


def test_hybrid_control_groups_are_version_1() -> None:
    hybrid = (
        "30 20 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 20 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    unified = "31 20 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert cgroups.version_1(cgroups.hierarchies(hybrid))
    assert not cgroups.version_1(cgroups.hierarchies(unified))


def test_mounts_are_taken_away_latest_first_and_only_ours() -> None:
    table = "".join(f"9 1 0:1 / {point} rw - x x x\n" for point in ("/", "/s/a", "/s/a/b\\040c", "/st"))
    assert mounts.below(Path("/s"), mounts.mount_points(table)) == ["/s/a/b c", "/s/a"]


def test_addons_are_named_where_the_api_server_expects_them() -> None:
    paths = [api_client.object_path(manifest) for manifest in addons.manifests(NETWORK)]
    assert "/api/v1/namespaces/kube-system/services/kube-dns" in paths
    assert "/apis/storage.k8s.io/v1/storageclasses/standard" in paths
    assert "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-host" in paths


def test_dns_answers_on_the_bridge_only() -> None:
    assert "bind 10.88.0.1" in services.render_corefile(NETWORK, PORTS, Path("/k"))


def test_ports_survive_a_restart(tmp_path: Path) -> None:
    first = ports.remembered(tmp_path / "ports.json", ["a", "b"])
    again = ports.remembered(tmp_path / "ports.json", ["a", "b", "c"])
    assert (again["a"], again["b"]) == (first["a"], first["b"])
    assert len(set(again.values())) == 3


def test_pip_settings_of_the_environment_win_and_certificates_are_the_mounted_ones() -> None:
    listing = (
        ":env:.index-url='https://env.example'\nglobal.index-url='https://file.example'\nglobal.cert='/host.pem'\n"
    )
    rendered = build_environment.pip_configuration(listing)
    assert "index-url = https://env.example" in rendered
    assert "cert = /etc/ssl/certs/ca-certificates.crt" in rendered


def test_uv_settings_become_a_file() -> None:
    rendered = build_environment.uv_configuration({"UV_DEFAULT_INDEX": "https://a.example", "UV_INDEX": "b c"})
    assert 'index-url = "https://a.example"' in rendered
    assert 'extra-index-url = ["b", "c"]' in rendered


def test_the_host_is_mounted_and_never_copied_into_an_image(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    environment = {"HOME": str(tmp_path), "TORCH_WHEELS": str(wheels)}
    seen = {mount.target: mount for mount in build_environment.mounts(tmp_path / "made", environment)}
    assert seen["/wheels"].option() == f"{wheels}:/wheels:ro"
    assert seen["/root/.cache/uv"].writable


@pytest.mark.parametrize(("codename", "want"), [("bookworm", True), ("trixie", False), ("noble", False)])
def test_package_sources_are_mounted_where_the_host_runs_the_images_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codename: str, want: bool
) -> None:
    (tmp_path / "os-release").write_text(f"ID=debian\nVERSION_CODENAME={codename}\n")
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "apt" / "sources.list.d" / "debian.sources").write_text("URIs: http://mirror.example/debian\n")
    (tmp_path / "apt" / "sources.list.d" / "nodesource.list").write_text("deb http://other.example nodistro main\n")
    monkeypatch.setattr(build_environment, "_OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(base_image, "APT", tmp_path / "apt")
    monkeypatch.setattr(build_environment, "run", lambda _command: 'Acquire::http::Proxy "http://proxy.example";\n')
    seen = {
        mount.target: mount.source for mount in build_environment.mounts(tmp_path / "made", {"HOME": str(tmp_path)})
    }
    assert ("/etc/apt/sources.list.d" in seen) is want
    if want:
        assert "proxy.example" in seen["/etc/apt/apt.conf.d/90host"].read_text()
        assert seen["/etc/apt/sources.list"].read_text() == ""
        sources = {path.name: path.read_text() for path in seen["/etc/apt/sources.list.d"].iterdir()}
        assert "mirror.example" in sources["debian.sources"]
        assert "nodesource.list" not in sources
        assert "/usr/share/keyrings" in seen


@pytest.mark.parametrize(
    ("dockerfile", "want"),
    [("ARG BASE_IMAGE=python\nFROM ${BASE_IMAGE}\n", True), ("FROM python\n", False), ("# ARG BASE_IMAGE\n", False)],
)
def test_only_a_dockerfile_that_lets_it_gets_another_base(dockerfile: str, want: bool) -> None:
    assert base_image.wanted_by(dockerfile) is want


@pytest.mark.parametrize(
    ("sources", "want"),
    [
        ("deb http://mirror.example/debian bookworm main\n", "http://mirror.example/debian"),
        ("deb [signed-by=/k] http://mirror.example/debian/ bookworm main\n", "http://mirror.example/debian"),
        ("Types: deb\nURIs: http://mirror.example/debian\n", "http://mirror.example/debian"),
        ("deb http://other.example/apt x main\n", base_image.MIRROR),
    ],
)
def test_the_hosts_debian_mirror_is_used(sources: str, want: str) -> None:
    assert base_image.mirror(sources) == want


@pytest.mark.parametrize(
    ("tag", "want"),
    [("trainer:1", "localhost/trainer:1"), ("a/b:1", "localhost/a/b:1"), ("ghcr.io/a/b:1", "ghcr.io/a/b:1")],
)
def test_tags_are_qualified_as_buildah_does(tag: str, want: str) -> None:
    assert images.qualified(tag) == want


def test_an_image_keeps_its_name_in_the_registry() -> None:
    image = ImageRef("localhost/local-cluster/trainer:dev", Builder.BUILDAH)
    assert (image.repository, image.version) == ("trainer", "dev")


def test_a_file_with_the_wanted_content_is_left_alone(tmp_path: Path) -> None:
    target = files.write(tmp_path / "config", "a")
    before = target.stat().st_ino
    assert files.write(target, "a").stat().st_ino == before
    assert files.write(target, "b").read_text() == "b"
