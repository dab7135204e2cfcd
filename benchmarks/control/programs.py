"""Programs that only this benchmark needs. Their versions are in components/*/go.mod, and Go builds them from there."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from local_cluster import binaries, go_build, locations
from local_cluster.command import run
from local_cluster.lock import exclusive
from local_cluster.progress import step
from local_cluster.versions import Component

COMPONENTS = Path(__file__).parent / "components"
_PROGRAMS = {
    "kwok": ("sigs.k8s.io/kwok", "/cmd/kwok"),
    "trainer": ("github.com/kubeflow/trainer/v2", "/cmd/trainer-controller-manager"),
    "jobset": ("sigs.k8s.io/jobset", ""),
}


def version(name: str) -> str:
    """The version that the program's go.mod requires."""
    module, _ = _PROGRAMS[name]
    return required_version((COMPONENTS / name / "go.mod").read_text(), module)


def required_version(go_mod: str, module: str) -> str:
    """The version of a module in the text of a go.mod, without its leading v; ValueError when it is not required."""
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} v(\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise ValueError(f"expected go.mod to require {module}")
    return found[1]


def path(name: str) -> Path:
    """The program, built first where it is missing."""
    component = _component(name)
    target = binaries.cached(component, locations.from_environment())
    with exclusive(target.parent / "in-use.lock"):
        if not target.exists():
            _build(component, target)
    return target


def sources(name: str) -> Path:
    """The folder of the program's Go module: its manifests are read there and never copied into this repository."""
    module, _ = _PROGRAMS[name]
    run(["go", "mod", "download", module], directory=COMPONENTS / name)
    return Path(run(["go", "list", "-m", "-f", "{{.Dir}}", module], directory=COMPONENTS / name).strip())


def _component(name: str) -> Component:
    module, package = _PROGRAMS[name]
    return Component(name, version(name), str(COMPONENTS / name), f"{module}{package}", minutes=3)


def _build(component: Component, target: Path) -> None:
    handle, fresh = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    os.close(handle)
    with step(f"building {component.name} {component.version} (first time only)"):
        go_build.build(component, Path(fresh))
    Path(fresh).chmod(0o755)
    Path(fresh).rename(target)
