"""Downloads official releases. Nothing is used before its SHA-256 agrees with the one the project publishes.

A site that does not answer is remembered for this run, so that a closed network costs three seconds once.
"""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from local_cluster.errors import LocalClusterError
from local_cluster.versions import Release

CONNECT_SECONDS = 3.0
STALL_SECONDS = 60.0  # a site that gave the checksum is there; its download may be slow
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_silent_sites: set[str] = set()


class ReleaseUnavailableError(LocalClusterError):
    """The release could not be fetched; building from source is the way out."""


class ChecksumError(LocalClusterError):
    """What was downloaded is not what the project published."""


def architecture(machine: str | None = None) -> str:
    """This machine's architecture as Go and Kubernetes call it."""
    name = (machine or platform.machine()).lower()
    try:
        return _ARCHITECTURES[name]
    except KeyError:
        raise ReleaseUnavailableError(f"no release is published for the architecture {name}") from None


def published_checksum(listing: str, file_name: str) -> str:
    """The digest of a file in a checksum listing: a bare digest, or lines of `digest  name`."""
    rows = [line.split() for line in listing.splitlines() if line.strip()]
    if len(rows) == 1:
        return rows[0][0].lower()
    for row in rows:
        if len(row) > 1 and row[-1].lstrip("*") == file_name:
            return row[0].lower()
    raise ChecksumError(f"the published checksums do not name {file_name}")


def verify(content: bytes, want_digest: str, url: str) -> None:
    """Refuses content whose SHA-256 is not the wanted one."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != want_digest:
        raise ChecksumError(
            f"{url} has SHA-256 {digest}, but {want_digest} is published: something between here and there changed it. "
            "Nothing was kept; try again, or build from source on a machine that cannot reach the site."
        )


def program(content: bytes, member: str | None) -> bytes:
    """The program itself, taken out of its archive where it comes in one."""
    if member is None:
        return content
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
        entry = archive.extractfile(member)
        if entry is None:
            raise ReleaseUnavailableError(f"the archive holds no file {member}")
        return entry.read()


def download(release: Release, target: Path) -> None:
    """Puts the verified program at `target`."""
    arch = architecture()
    url = release.url.format(arch=arch)
    listing = _fetch(release.checksum_url.format(arch=arch)).decode()
    content = _fetch(url, STALL_SECONDS)
    verify(content, published_checksum(listing, Path(urlsplit(url).path).name), url)
    member = release.member.format(arch=arch) if release.member else None
    target.write_bytes(program(content, member))
    target.chmod(0o755)


def _fetch(url: str, timeout: float = CONNECT_SECONDS) -> bytes:
    site = urlsplit(url).netloc
    if site in _silent_sites:
        raise ReleaseUnavailableError(f"{site} did not answer earlier in this run")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        raise ReleaseUnavailableError(f"{url} answered {error.code}") from error
    except OSError as error:
        _silent_sites.add(site)
        raise ReleaseUnavailableError(f"{site} does not answer: {error}") from error
