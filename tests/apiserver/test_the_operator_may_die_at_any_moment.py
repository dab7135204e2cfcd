"""SIGKILL after every single write, before its answer arrives: the job ends as if nothing had happened."""

from collections import Counter
from typing import Any

import pytest

from apiserver.gateway import Request
from apiserver.installation import Installation
from finetune_api.status import Phase

pytestmark = pytest.mark.apiserver


def outcome(status: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how often the operator died."""
    return {
        "phase": status["phase"],
        "message": status["message"],
        "conditions": [(c["type"], c["status"], c["reason"]) for c in status["conditions"]],
        "attempts": status["attempts"],
        "children": [(c["stage"], c["attempt"]) for c in status["children"]],
        "artifacts": status["artifacts"],
        "evaluation": status["evaluation"],
    }


def test_killed_after_every_write_it_brings_a_job_to_the_same_end_and_creates_nothing_twice(
    installed: Installation,
) -> None:
    team, operator = installed.team, installed.operator()
    gateway, last_writes = installed.gateway, list[str]()

    def kill(request: Request) -> None:
        last_writes.append(str(request))
        operator.kill()

    gateway.after_write = kill
    operator.start().wait_ready()
    team.submit("unlucky")

    def ended() -> bool:
        operator.restart_if_dead()
        team.work_through("unlucky")
        return Phase(team.phase("unlucky") or "Pending").terminal

    team.wait("the job ends", ended, seconds=180)
    gateway.after_write = lambda _request: None
    operator.kill()  # the last write's own death may still be on its way
    operator.ended(within=10)
    operator.start().wait_ready()
    team.submit("lucky")
    team.finish("lucky")
    assert outcome(team.status("unlucky")) == outcome(team.status("lucky"))
    created = Counter(
        (r.resource, r.name) for r, code in gateway.answered if r.verb == "create" and r.is_work and code == 201
    )
    assert set(created.values()) == {1}
    assert len({name for resource, name in created if resource == "jobs"}) == 8, "four stages of two jobs"
    want_deaths = Counter(["create persistentvolumeclaims", *["create networkpolicies"] * 2, *["create jobs"] * 4])
    assert Counter(last_writes) >= want_deaths + Counter(["update finetunejobs/status"] * 4)


def test_asked_to_stop_it_ends_in_time_and_lets_another_replica_lead(installed: Installation) -> None:
    team, operator = installed.team, installed.operator()
    operator.start().wait_ready()
    team.submit("support-bot")
    team.wait("the first stage starts", lambda: team.phase("support-bot") == "Preparing")
    assert operator.terminate() == 0
    lease = team.send("GET", team.path("leases", "finetune-operator"))
    assert lease["spec"]["holderIdentity"] == ""
