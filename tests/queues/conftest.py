"""One control plane with Kueue beside it for all tests here, and a team of its own with one queue for each test."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiserver.installation import Installation
from apiserver.job_api import JobApi
from kueue_manager import KueueManager
from local_cluster.control_plane import ControlPlane
from queues.local_queue import Queue


@pytest.fixture(scope="session")
def queue_plane() -> Iterator[ControlPlane]:
    plane = ControlPlane(controller_manager=True)
    try:
        JobApi.start(plane)
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def kueue(queue_plane: ControlPlane) -> Iterator[KueueManager]:
    manager = KueueManager(queue_plane.settings.directory / "kueue", queue_plane.server, queue_plane.settings.pki)
    manager.install()
    yield manager
    manager.stop()


@pytest.fixture
def installed(queue_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """A namespace of its own for one test."""
    name = f"q-{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    installation = Installation(queue_plane, name, tmp_path)
    yield installation
    installation.close()


@pytest.fixture
def queue(installed: Installation, kueue: KueueManager) -> Iterator[Queue]:
    """A queue with room for one stage at a time."""
    queue = Queue(installed.team, cpu="4", memory="16Gi")
    queue.create()
    yield queue
    queue.delete()
