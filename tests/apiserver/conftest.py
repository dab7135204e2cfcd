"""One control plane without nodes for all tests here, with the CRD of this repository in it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiserver.installation import Installation
from apiserver.job_api import JobApi
from local_cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    plane = ControlPlane(controller_manager=True)
    try:
        JobApi.start(plane)
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def installed(control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """A namespace of its own for one test."""
    installation = Installation(control_plane, _namespace(request), tmp_path)
    yield installation
    installation.close()


@pytest.fixture
def installed_cluster_wide(
    control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Installation]:
    """The same, with an operator that may serve the whole cluster."""
    installation = Installation(control_plane, _namespace(request), tmp_path, whole_cluster=True)
    yield installation
    installation.close()


def _namespace(request: pytest.FixtureRequest) -> str:
    return f"t-{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
