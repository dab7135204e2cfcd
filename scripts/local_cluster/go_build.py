"""Builds a component with Go from its module under components/, whose go.sum pins every source file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from local_cluster.command import run
from local_cluster.errors import BinaryUnavailableError, CommandFailedError
from local_cluster.versions import Component

MODULES = Path(__file__).parent / "components"
_SOURCES = ("go.mod", "main.go")


def source_hash(component: Component, modules: Path = MODULES) -> str:
    """Changes when the component would be built from something else."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        source = modules / component.module / name
        digest.update(source.read_bytes() if source.exists() else b"")
    return digest.hexdigest()[:8]


def source_folder(component: Component, module: str) -> Path:
    """Folder with the sources of a Go module that the component is built from, at the pinned version."""
    command = ["go", "mod", "download", "-json", module]
    answer = json.loads(run(command, directory=MODULES / component.module))
    return Path(answer["Dir"])


def build_command(component: Component, target: Path) -> list[str]:
    """The `go build` that makes the component; no version control stamp, no paths of this machine."""
    link_flags = f"-s -w {component.link_flags}".strip()
    return ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", link_flags, "-o", str(target), component.package]


def build(component: Component, target: Path) -> None:
    """Builds the component; says what to do where that is not possible."""
    if shutil.which("go") is None:
        raise BinaryUnavailableError(
            f"{component.name} {component.version} could not be downloaded, and Go is not installed to build it. "
            "Install Go 1.26 or newer (https://go.dev/dl), or start Docker so that kind can be used."
        )
    command = build_command(component, target)
    try:
        run(command, environment={"CGO_ENABLED": "0"}, directory=MODULES / component.module)
    except (CommandFailedError, subprocess.TimeoutExpired) as error:
        raise BinaryUnavailableError(
            f"building {component.name} {component.version} in {MODULES / component.module} failed. "
            f"Is the Go module proxy reachable (`go env GOPROXY`)? {error}"
        ) from error
