"""Installs what the host has to bring, from Debian's own packages; elsewhere it says what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from local_cluster.command import run
from local_cluster.errors import CommandFailedError, MissingToolError
from local_cluster.progress import step

NODE = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "nft": "nftables",
    "ip": "iproute2",
    "openssl": "openssl",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing(wanted: Mapping[str, str]) -> list[str]:
    """The packages whose program is not there."""
    return sorted({package for program, package in wanted.items() if not _present(program)})


def ensure(wanted: Mapping[str, str]) -> None:
    """Installs the packages whose program is not there."""
    packages = missing(wanted)
    if not packages:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        programs = ", ".join(sorted(program for program in wanted if not _present(program)))
        raise MissingToolError(
            f"these programs are missing: {programs}. Install them with your "
            f"package manager (Debian: apt-get install {' '.join(packages)}), or start Docker so that kind can be used."
        )
    with step(f"installing {', '.join(packages)}"):
        _apt_install(packages)


def _present(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program, path=_PATH) is not None


def _apt_install(packages: Iterable[str]) -> None:
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(install, environment=quiet)
    except CommandFailedError:  # the package lists may be old or absent
        run(["apt-get", "update"], environment=quiet)
        run(install, environment=quiet)
