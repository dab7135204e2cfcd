"""A real API server for the chart."""

from collections.abc import Iterator

import pytest

from local_cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Runs for all tests of this folder."""
    with ControlPlane() as plane:
        yield plane
