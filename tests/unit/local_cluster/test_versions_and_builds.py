from __future__ import annotations

import re
from pathlib import Path

import pytest

from local_cluster import go_build, versions
from local_cluster.errors import BinaryUnavailableError
from local_cluster.versions import COMPONENTS, Component

OWN_PROGRAMS = {"pause", "storage-provisioner"}
BUILT = {"fake-gcs-server", "kueue", "versitygw"}
"""Released as images, or for architectures by other names; the program itself is built."""


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=lambda component: component.name)
def test_every_component_has_a_module_that_requires_its_version(component: Component) -> None:
    module = (go_build.MODULES / component.module / "go.mod").read_text()
    if component.name not in OWN_PROGRAMS:
        assert re.search(rf"^(require )?\s*\S+ v{re.escape(component.version)}$", module, re.MULTILINE)


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=lambda component: component.name)
def test_every_release_is_of_the_pinned_version_and_has_a_checksum(component: Component) -> None:
    if component.release is None:
        assert component.name in OWN_PROGRAMS | BUILT
        return
    assert component.version in component.release.url
    assert component.version in component.release.checksum_url or "SHA256SUMS" in component.release.checksum_url


@pytest.mark.parametrize("module", sorted({c.module for c in COMPONENTS.values()} - {"pause"}))
def test_every_module_pins_its_sources(module: str) -> None:
    assert (go_build.MODULES / module / "go.sum").stat().st_size > 0


def test_kubernetes_reports_its_version() -> None:
    command = go_build.build_command(COMPONENTS["kubelet"], Path("/out/kubelet"))
    assert f"-s -w -X k8s.io/component-base/version.gitVersion=v{versions.KUBERNETES}" in command
    assert command[-3:] == ["-o", "/out/kubelet", "k8s.io/kubernetes/cmd/kubelet"]


def test_a_changed_source_gives_another_cache_key(tmp_path: Path) -> None:
    component = Component("own", "1", "own", ".")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "go.mod").write_text("module own")
    before = go_build.source_hash(component, tmp_path)
    (tmp_path / "own" / "main.go").write_text("package main")
    assert go_build.source_hash(component, tmp_path) != before


def test_without_go_the_error_says_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BinaryUnavailableError, match=r"Install Go .*or start Docker"):
        go_build.build(COMPONENTS["etcd"], tmp_path / "etcd")
