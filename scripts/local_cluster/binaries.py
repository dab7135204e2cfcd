"""Provides programs: from the cache, else the official release, else built from source. A half-written file is never
seen.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from local_cluster import go_build, locations, releases
from local_cluster.errors import LocalClusterError
from local_cluster.lock import exclusive
from local_cluster.progress import step
from local_cluster.versions import COMPONENTS, Component


def path(name: str, where: locations.Locations | None = None) -> Path:
    """The program of that name, made available first where it is missing."""
    component = _component(name)
    target = cached(component, where or locations.from_environment())
    if not target.exists():
        with exclusive(target.parent / "in-use.lock"):  # tests that run side by side build it once
            if not target.exists():
                _provide(component, target)
    return target


def cached(component: Component, where: locations.Locations) -> Path:
    """Where the component lies once it is there. The source hash keeps a changed build from passing for the old one."""
    key = f"{component.name}-{component.version}-{go_build.source_hash(component)}"
    return where.binaries / key / component.name


def _component(name: str) -> Component:
    try:
        return COMPONENTS[name]
    except KeyError:
        known = ", ".join(sorted(COMPONENTS))
        raise LocalClusterError(f"no component is called {name!r}; there are: {known}") from None


def _provide(component: Component, target: Path) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    os.close(handle)
    fresh = Path(name)
    try:
        if not _download(component, fresh):
            _build(component, fresh)
        fresh.chmod(0o755)
        fresh.rename(target)
    finally:
        fresh.unlink(missing_ok=True)


def _download(component: Component, target: Path) -> bool:
    if component.release is None:
        return False
    try:
        releases.download(component.release, target)
    except releases.ReleaseUnavailableError:
        return False
    return True


def _build(component: Component, target: Path) -> None:
    duration = f"{component.minutes:g} min" if component.minutes >= 1 else f"{component.minutes * 60:.0f} s"
    with step(f"building {component.name} {component.version} (first time only, about {duration})"):
        go_build.build(component, target)
