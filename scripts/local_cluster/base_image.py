"""The image that our Dockerfiles build upon: Docker Hub's where it can be reached, else an equivalent one made of
Debian packages.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from local_cluster.command import require, run
from local_cluster.images_store import Store
from local_cluster.progress import step

ARGUMENT = "BASE_IMAGE"
TAG = "localhost/python:3.11-bookworm"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
HUB = "https://registry-1.docker.io/v2/"
_DECLARED = re.compile(rf"^\s*ARG\s+{ARGUMENT}\b", re.MULTILINE)
APT = Path("/etc/apt")
HOST_SOURCES = ("sources.list", "sources.list.d/debian.sources", "sources.list.d/debian.list")
_MIRROR = re.compile(r"^(?:URIs:\s*|deb\s+(?:\[[^]]*\]\s+)?)(\S+/debian/?)(?=\s|$)", re.MULTILINE)


def wanted_by(dockerfile: str) -> bool:
    """Whether a Dockerfile lets its base image be chosen."""
    return _DECLARED.search(dockerfile) is not None


def hub_answers(url: str = HUB) -> bool:
    """Whether Docker Hub can be reached; it asks for a login, which is an answer."""
    try:
        urllib.request.urlopen(url, timeout=3).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def mirror(sources: str) -> str:
    """The Debian mirror that this host's package sources name, else Debian's own."""
    found = _MIRROR.search(sources)
    return found.group(1).rstrip("/") if found else MIRROR


def ensure(store: Store) -> str:
    """The tag of the equivalent image, made first where it is missing."""
    if not store.has(TAG):
        tarball = store.directory / "base-rootfs.tar"
        if not tarball.exists():
            with step("making a Debian 12 image with Python 3.11 (first time only, about 3 min)"):
                _make_root(tarball)
        _commit(store, tarball)
    return TAG


def _make_root(tarball: Path) -> None:
    debootstrap = require("debootstrap", "Install it with your package manager, or start Docker.")
    sources = "\n".join((APT / name).read_text() for name in HOST_SOURCES if (APT / name).exists())
    tarball.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tarball.parent, prefix="rootfs-") as folder:
        root = Path(folder) / "root"
        packages = f"--include={','.join(PACKAGES)}"
        run([debootstrap, "--variant=minbase", packages, SUITE, root, mirror(sources)])
        _finish(root)
        fresh = tarball.with_suffix(".new")
        run(["tar", "--create", "--numeric-owner", "--file", fresh, "--directory", root, "."])
        fresh.rename(tarball)


def _finish(root: Path) -> None:
    """What the official image also has: `python`, an unmanaged pip, Debian's public mirrors, no package caches."""
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    (root / "etc/apt/sources.list").write_text(
        f"deb {MIRROR} {SUITE} main\ndeb {MIRROR} {SUITE}-updates main\ndeb {SECURITY_MIRROR} {SUITE}-security main\n"
    )
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    for name in ("etc/hostname", "etc/resolv.conf"):  # debootstrap copies this machine's
        (root / name).unlink(missing_ok=True)


def _commit(store: Store, tarball: Path) -> None:
    with step(f"adding {TAG} to the image store"):
        container = store.buildah("from", "scratch").strip()
        try:
            store.buildah("add", "--quiet", container, str(tarball), "/")
            path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            store.buildah("config", "--env", path, "--env", "LANG=C.UTF-8", "--cmd", "python3", container)
            store.buildah("commit", "--quiet", container, TAG)
        finally:
            store.buildah("rm", container)
