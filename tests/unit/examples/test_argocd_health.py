"""The health script of Argo CD, run by Lua on statuses that the operator's core has written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lupa.lua54 import LuaRuntime

from builders import make_job
from world import World

SCRIPT = Path(__file__).parents[3] / "examples" / "argocd" / "health.lua"


def health_of(job: dict[str, Any] | None) -> tuple[str, str]:
    """Status and message that Argo CD would show."""
    lua = LuaRuntime()
    lua.globals().obj = lua.table_from(job, recursive=True)
    found = lua.execute(SCRIPT.read_text())
    return found.status, found.message


def running() -> World:
    world = World(make_job().obj())
    world.settle()
    world.start_pod()
    world.settle()
    return world


def succeeded() -> World:
    world = World(make_job().obj())
    world.run_to_the_end()
    return world


def failed() -> World:
    world = World(make_job().with_spec(distributed={"strategy": "fsdp"}).obj())
    world.settle()
    return world


def suspended() -> World:
    world = World(make_job().suspended().obj())
    world.settle()
    return world


def queued() -> World:
    world = World(make_job().in_queue("gpus").obj())
    world.settle()
    return world


@pytest.mark.parametrize(
    ("made", "want_status", "want_message"),
    [
        (running, "Progressing", "waiting for the pod of stage prepare"),
        (succeeded, "Healthy", "exact-match 0.86"),
        (failed, "Degraded", "not supported yet: distributed.strategy=fsdp"),
        (suspended, "Suspended", "set spec.policy.suspend to false"),
        (queued, "Suspended", "queue gpus: waiting"),
    ],
)
def test_argo_cd_sees_what_the_operator_says(made: Callable[[], World], want_status: str, want_message: str) -> None:
    status, message = health_of(made().job)
    assert status == want_status
    assert want_message in message


def test_a_job_that_nobody_has_seen_is_on_its_way() -> None:
    assert health_of(make_job().obj()) == ("Progressing", "waiting for the operator")


def test_the_status_of_an_older_generation_says_nothing_about_this_one() -> None:
    world = suspended()
    assert world.job is not None
    world.job["metadata"]["generation"] = 2
    assert health_of(world.job) == ("Progressing", "waiting for the operator to see generation 2")
