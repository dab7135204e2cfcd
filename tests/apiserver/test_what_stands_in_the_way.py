"""Taken names, missing permissions, an API server under load: each is told in the job's status, and overcome."""

from typing import Any

import pytest

from apiserver.gateway import Request, Spoiled
from apiserver.installation import Installation
from apiserver.operator_process import permissions
from finetune_api.status import Stage
from finetune_operator.core.identity import child_name

pytestmark = pytest.mark.apiserver


def test_a_taken_name_is_told_and_the_job_goes_on_when_it_is_free(installed: Installation) -> None:
    team = installed.team
    job = team.submit("support-bot")
    taken = child_name(job, Stage.PREPARE, 1)
    container = {"name": "c", "image": "busybox"}
    foreign = {
        "metadata": {"name": taken},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }
    team.send("POST", team.path("jobs"), foreign)
    installed.operator().start().wait_ready()
    team.wait("the conflict is told", lambda: team.condition("support-bot", "Prepared").get("reason") == "NameConflict")
    assert taken in team.condition("support-bot", "Prepared")["message"]
    untouched = team.send("GET", team.path("jobs", taken))
    assert untouched["spec"]["template"]["spec"]["containers"][0]["image"] == "busybox"
    team.send("DELETE", f"{team.path('jobs', taken)}?propagationPolicy=Background")
    team.finish("support-bot")
    assert team.phase("support-bot") == "Succeeded"


def without(resource: str, verb: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The roles among the permissions, with one verb on one resource less."""
    roles = [o for o in objects if o["kind"] == "Role"]
    for rule in (rule for role in roles for rule in role["rules"]):
        if resource in rule["resources"]:
            rule["verbs"] = [v for v in rule["verbs"] if v != verb]
    return roles


@pytest.mark.parametrize("resource", ["persistentvolumeclaims", "jobs"])
def test_a_create_that_is_forbidden_is_told_and_made_up_for(installed: Installation, resource: str) -> None:
    team = installed.team
    team.apply(*without(resource, "create", permissions(team.namespace)))
    installed.operator().start().wait_ready()
    team.submit("support-bot")
    team.wait("the refusal is told", lambda: team.condition("support-bot", "Prepared").get("reason") == "ChildRefused")
    assert f'cannot create resource "{resource}"' in team.condition("support-bot", "Prepared")["message"]
    team.apply(*permissions(team.namespace))
    team.finish("support-bot")
    assert team.phase("support-bot") == "Succeeded"


class EachOnce:
    """Spoils each write the first time, in turn with one answer after the other."""

    def __init__(self, *answers: Spoiled) -> None:
        self._answers = answers
        self._seen: set[tuple[str, bytes]] = set()
        self.spoiled = 0

    def __call__(self, request: Request) -> Spoiled | None:
        key = (f"{request} {request.name}", b"" if request.verb == "create" else request.body)
        if not request.is_work or request.resource == "events" or key in self._seen:
            return None
        self._seen.add(key)
        self.spoiled += 1
        return self._answers[self.spoiled % len(self._answers)]


def test_every_write_may_fail_once_in_any_way(installed: Installation) -> None:
    team = installed.team
    spoil = EachOnce(Spoiled(429, "TooManyRequests"), Spoiled(503), Spoiled(0), Spoiled(500, "InternalError"))
    operator = installed.operator()
    installed.gateway.spoil = spoil
    operator.start().wait_ready()
    team.submit("support-bot")
    team.finish("support-bot", seconds=120)
    assert team.phase("support-bot") == "Succeeded"
    assert team.status("support-bot")["attempts"]["count"] == len(Stage)
    assert spoil.spoiled >= 7 + len(Stage), "the creates, and a status for each stage"


def test_a_write_whose_answer_is_lost_is_not_done_twice(installed: Installation) -> None:
    team, lost = installed.team, []
    operator = installed.operator()

    def lose(request: Request) -> None:
        if request.resource == "jobs" and request.verb == "create" and request.name not in lost:
            lost.append(request.name)
            raise ConnectionResetError

    installed.gateway.after_write = lose
    operator.start().wait_ready()
    team.submit("support-bot")
    team.finish("support-bot")
    assert len(lost) == len(Stage)
    assert len(team.list_all("jobs")) == len(Stage)
    assert team.status("support-bot")["attempts"]["count"] == len(Stage)
