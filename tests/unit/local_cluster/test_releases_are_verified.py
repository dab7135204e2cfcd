from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import releases
from local_cluster.versions import Release

PROGRAM = b"#!/bin/true"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A release site: its address, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            """Keeps the test's output clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def archive(member: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = len(PROGRAM)
        tar.addfile(entry, io.BytesIO(PROGRAM))
    return buffer.getvalue()


def test_a_bare_digest_is_the_files(tmp_path: Path) -> None:
    assert releases.published_checksum("ABC123\n", "kubectl") == "abc123"


def test_the_files_own_line_is_taken_from_a_listing() -> None:
    listing = "aaa  etcd-arm64.tar.gz\nbbb *etcd-amd64.tar.gz\n"
    assert releases.published_checksum(listing, "etcd-amd64.tar.gz") == "bbb"


def test_a_listing_without_the_file_is_refused() -> None:
    with pytest.raises(releases.ChecksumError, match="do not name helm"):
        releases.published_checksum("aaa  x\nbbb  y\n", "helm")


def test_a_verified_archive_gives_its_program(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    content = archive("linux/tool")
    (folder / "tool.tgz").write_bytes(content)
    (folder / "tool.tgz.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  tool.tgz\n")
    releases.download(Release(f"{address}/tool.tgz", f"{address}/tool.tgz.sha256", "linux/tool"), tmp_path / "tool")
    assert (tmp_path / "tool").read_bytes() == PROGRAM
    assert (tmp_path / "tool").stat().st_mode & 0o111


def test_a_changed_download_is_refused_and_not_kept(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    (folder / "tool").write_bytes(b"something else")
    (folder / "tool.sha256").write_text(hashlib.sha256(PROGRAM).hexdigest())
    with pytest.raises(releases.ChecksumError, match="Nothing was kept"):
        releases.download(Release(f"{address}/tool", f"{address}/tool.sha256"), tmp_path / "tool")
    assert not (tmp_path / "tool").exists()


def test_a_missing_release_can_be_built_instead(site: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = site
    with pytest.raises(releases.ReleaseUnavailableError, match="answered 404"):
        releases.download(Release(f"{address}/tool", f"{address}/tool.sha256"), tmp_path / "tool")


def test_a_silent_site_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(releases, "_silent_sites", set())
    release = Release("http://127.0.0.1:9/tool", "http://127.0.0.1:9/tool.sha256")
    with pytest.raises(releases.ReleaseUnavailableError, match="does not answer"):
        releases.download(release, tmp_path / "tool")
    with pytest.raises(releases.ReleaseUnavailableError, match="did not answer earlier"):
        releases.download(release, tmp_path / "tool")


@pytest.mark.parametrize(("machine", "want"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_architectures_have_gos_names(machine: str, want: str) -> None:
    assert releases.architecture(machine) == want


def test_an_unknown_architecture_has_no_release() -> None:
    with pytest.raises(releases.ReleaseUnavailableError, match="riscv64"):
        releases.architecture("riscv64")
