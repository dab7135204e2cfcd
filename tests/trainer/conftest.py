"""What trainer tests share: one core for each process, and an environment that a stage run in it does not change."""

import os
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """Take one core: stages compute with as many threads as there are cores, and two of them on the same cores wait for
    each other at every operation. Processes that tests start stay on it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(autouse=True)
def environment_of_the_test() -> Iterator[None]:
    """A stage sets its home and its threads for the process that it has to itself; here it has not."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin the speed of the machine, which is measured anew each time and changes with what else runs on it."""
    monkeypatch.setattr("finetune_trainer.stages.prepare.operations_per_second", lambda *_: 1e11)
