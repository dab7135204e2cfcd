"""A job that is deleted, whenever it is, leaves nothing behind, and the operator does nothing about it any more."""

import time

import pytest

from apiserver.installation import Installation
from finetune_api.status import Stage

pytestmark = pytest.mark.apiserver

QUIET_SECONDS = 3.0


def test_a_job_deleted_in_any_phase_leaves_nothing(installed: Installation) -> None:
    team = installed.team
    installed.operator().start().wait_ready()
    deleted_at = {"waiting": Stage.PREPARE, **{f"at-{stage}": stage for stage in Stage}, "succeeded": None}
    for name in (*deleted_at, "kept"):
        team.submit(name)
    for name, stage in deleted_at.items():
        if stage is None:
            team.finish(name)
        else:
            pod = team.advance_to(name, stage)
            if name != "waiting":
                team.run_pod(pod)
    team.finish("kept")
    kept = {child for child in team.children() if "/kept-" in child}
    for name in deleted_at:
        team.delete("finetunejobs", name)
    team.wait("all children are gone", lambda: set(team.children()) == kept)
    requests = len(installed.gateway.requests)
    time.sleep(QUIET_SECONDS)
    assert [str(r) for r in installed.gateway.requests[requests:] if r.resource != "leases"] == []


def test_a_job_deleted_while_the_operator_is_down_is_not_held_up(installed: Installation) -> None:
    team, operator = installed.team, installed.operator()
    operator.start().wait_ready()
    team.submit("support-bot")
    team.advance_to("support-bot", Stage.TRAIN)
    operator.kill()
    team.delete("finetunejobs", "support-bot")
    team.wait("all children are gone", lambda: not team.children())
    before = len(installed.gateway.work())
    operator.start().wait_ready()
    time.sleep(1.0)
    assert installed.gateway.work()[before:] == []


def test_the_children_of_an_ended_job_are_never_made_again(installed: Installation) -> None:
    team = installed.team
    installed.operator().start().wait_ready()
    team.submit("support-bot")
    team.finish("support-bot")
    team.wait("the end is told", lambda: installed.gateway.work()[-1] == "create events")
    status, before = team.status("support-bot"), len(installed.gateway.work())
    for child in team.children():
        resource, name = child.split("/")
        if resource == "jobs":
            team.send("DELETE", f"{team.path(resource, name)}?propagationPolicy=Background")
    team.wait("its Jobs are gone", lambda: not [c for c in team.children() if c.startswith(("jobs", "pods"))])
    time.sleep(1.0)
    assert installed.gateway.work()[before:] == []
    assert team.status("support-bot") == status
