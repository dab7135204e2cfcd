"""Watches that bring nothing, lists that are old: what is missed is found, and nothing is created twice."""

import time

import pytest

from apiserver.gateway import Request, Spoiled
from apiserver.installation import Installation
from finetune_api.status import Stage

pytestmark = pytest.mark.apiserver


def test_what_the_watches_miss_is_found_by_comparing(installed: Installation) -> None:
    team = installed.team
    operator = installed.operator(resync_seconds=1)
    installed.gateway.silent = frozenset({"finetunejobs", "jobs", "pods"})
    operator.start().wait_ready()
    team.submit("missed")
    team.finish("missed")
    assert team.phase("missed") == "Succeeded"
    team.delete("finetunejobs", "missed")
    team.wait("the job is forgotten", lambda: 'finetune_jobs{phase="Succeeded"} 0.0' in operator.ask("/metrics")[1])


def test_a_cache_that_knows_nothing_of_the_children_creates_none_twice(installed: Installation) -> None:
    team = installed.team
    operator = installed.operator()
    operator.start().wait_ready()
    team.submit("support-bot")
    team.advance_to("support-bot", Stage.TRAIN)
    operator.kill()
    operator.ended(within=10)

    def old_list(request: Request) -> Spoiled | None:
        """Lists of the whole namespace cannot see any Job; the live list of one job's children can."""
        whole = request.query.endswith("labelSelector=slmops.dev/job-uid")
        return Spoiled(200) if request.verb == "list" and request.resource == "jobs" and whole else None

    installed.gateway.silent = frozenset({"jobs"})
    installed.gateway.spoil = old_list
    before = len(installed.gateway.requests)
    operator.start().wait_ready()
    for round_ in range(5):
        team.change("finetunejobs", "support-bot", {"metadata": {"annotations": {"touched": str(round_)}}})
        time.sleep(0.3)
    lists = [r for r in installed.gateway.requests[before:] if r.verb == "list" and "job-uid%3D" in r.query]
    assert lists, "the missing Job was looked for live"
    assert installed.gateway.work()[-1:] != ["create jobs"]
    assert len(team.list_all("jobs")) == 2
    assert team.status("support-bot")["attempts"]["count"] == 2


def test_own_children_are_known_though_the_watch_says_nothing(installed: Installation) -> None:
    team = installed.team
    operator = installed.operator()
    installed.gateway.silent = frozenset({"jobs", "pods"})
    operator.start().wait_ready()
    team.submit("support-bot")
    team.wait("the first stage starts", lambda: team.phase("support-bot") == "Preparing")
    for round_ in range(5):
        team.change("finetunejobs", "support-bot", {"metadata": {"annotations": {"touched": str(round_)}}})
        time.sleep(0.1)
    creates = [r for r in installed.gateway.requests if r.verb == "create" and r.resource == "jobs"]
    assert len(creates) == 1


def no_such_resource(request: Request) -> Spoiled | None:
    return Spoiled(404, "NotFound") if request.resource.startswith("finetunejobs") else None


def test_without_the_crd_it_says_so_and_waits(installed: Installation) -> None:
    operator = installed.operator()
    installed.gateway.spoil = no_such_resource
    operator.start()
    team = installed.team
    team.wait("the log names the CRD", lambda: operator.log.exists() and "is not installed" in operator.log.read_text())
    assert operator.alive
    assert operator.ask("/readyz")[0] == 503
    assert operator.ask("/healthz")[0] == 200
    installed.gateway.spoil = lambda _request: None
    operator.wait_ready()


def test_a_crd_that_vanishes_ends_the_process_so_that_it_is_started_again(installed: Installation) -> None:
    operator = installed.operator()
    operator.start().wait_ready()
    installed.team.wait("the watches are open", lambda: len(installed.gateway.open_watches()) == 3)
    installed.gateway.spoil = no_such_resource
    installed.gateway.break_watches()
    assert operator.ended(within=60) == 1


def test_credentials_that_expire_are_renewed(installed: Installation) -> None:
    team, expired = installed.team, set[str]()
    operator = installed.operator()
    operator.start().wait_ready()
    team.wait("the watches are open", lambda: len(installed.gateway.open_watches()) == 3)

    def refuse_once(request: Request) -> Spoiled | None:
        if request.verb != "watch" or request.resource in expired:
            return None
        expired.add(request.resource)
        return Spoiled(401, "Unauthorized")

    installed.gateway.spoil = refuse_once
    installed.gateway.break_watches()
    team.wait("all were refused", lambda: len(expired) == 3)
    team.wait("the watches are open again", lambda: len(installed.gateway.open_watches()) == 3)
    team.submit("support-bot")
    team.advance_to("support-bot", Stage.TRAIN)
    assert operator.alive


def test_an_outage_of_the_api_server_is_survived(installed: Installation) -> None:
    team = installed.team
    operator = installed.operator()
    operator.start().wait_ready()
    team.submit("support-bot")
    pod = team.advance_to("support-bot", Stage.PREPARE)
    team.wait("the watches are open", lambda: len(installed.gateway.open_watches()) == 3)
    installed.gateway.spoil = lambda _request: Spoiled(0)
    installed.gateway.break_watches()
    team.end_pod(pod)
    before = len(installed.gateway.requests)
    team.wait("watches are tried again and again", lambda: _watches(installed, before) > 6)
    assert operator.alive
    assert operator.ask("/healthz")[0] == 200, "a restart would not help"
    installed.gateway.spoil = lambda _request: None
    team.finish("support-bot")
    assert team.phase("support-bot") == "Succeeded"


def _watches(installed: Installation, since: int) -> int:
    return sum(r.verb == "watch" for r in installed.gateway.requests[since:])
