"""Steps of earlier builds do not fill the disk: those without a name go some days after they were made."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local_cluster import packages
from local_cluster.images_store import Store

pytestmark = pytest.mark.cluster


def build(store: Store, folder: Path, content: str) -> str:
    """Build `kept:1` anew, which takes the name away from the image before it; returns its id."""
    (folder / "file").write_text(content)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY file /file\nENV A=1\n")
    store.buildah("build", "--isolation=chroot", "--layers", "--tag=localhost/kept:1", str(folder))
    return store.image_id("localhost/kept:1")


def ids(store: Store) -> str:
    return store.buildah("images", "--all", "--quiet", "--no-trunc")


def test_steps_of_earlier_builds_go_and_the_last_build_stays(tmp_path: Path) -> None:
    packages.ensure(packages.IMAGES)
    store = Store(tmp_path)
    (tmp_path / "context").mkdir()
    first, last = (build(store, tmp_path / "context", content) for content in ("one", "two"))
    store.prune(datetime.now(UTC) - timedelta(days=1))
    assert first in ids(store), "a build of today may find its steps again"
    store.prune(datetime.now(UTC) + timedelta(minutes=1))
    assert first not in ids(store)
    assert store.image_id("localhost/kept:1") == last
