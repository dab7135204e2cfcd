"""FineTuneJobs in the queues of a real Kueue: waiting, admission, preemption, suspension, and Kueue that comes late."""

from typing import Any

import pytest

from apiserver.gateway import Request, Spoiled
from apiserver.installation import Installation
from finetune_api.status import Stage
from kueue_manager import KueueManager
from queues.local_queue import Queue

pytestmark = pytest.mark.apiserver


def says(queue: Queue, job: str, reason: str, text: str = "") -> bool:
    """Whether the job is held for this reason, and its message has this text."""
    condition = queue.team.condition(job, "Suspended")
    return condition.get("reason") == reason and text in queue.team.status(job)["message"]


def attempts(queue: Queue, job: str) -> dict[str, Any]:
    found: dict[str, Any] = queue.team.status(job)["attempts"]
    return found


def test_a_job_goes_through_its_queue_to_its_end(installed: Installation, queue: Queue) -> None:
    installed.operator().start().wait_ready()
    queue.submit("support-bot")
    queue.team.finish("support-bot")
    status = queue.team.status("support-bot")
    assert status["phase"] == "Succeeded"
    assert attempts(queue, "support-bot")["disruptions"] == 0
    assert [c["stage"] for c in status["children"]] == [*Stage]
    patched = [r for r in installed.gateway.requests if r.verb == "patch"]
    assert patched == [], "Kueue alone starts Jobs"


def test_a_job_that_finds_no_quota_waits_and_says_so_in_kueues_words(installed: Installation, queue: Queue) -> None:
    team = queue.team
    installed.operator().start().wait_ready()
    queue.submit("first")
    team.advance_to("first", Stage.TRAIN)
    queue.submit("second")
    team.wait("the second waits", lambda: says(queue, "second", "Queued", "insufficient unused quota for cpu"))
    assert team.phase("second") == "Suspended"
    assert team.stage_pods("second") == []
    assert "activeSince" not in team.status("second"), "waiting is not active time"
    team.finish("first", "second")
    assert team.phase("second") == "Succeeded"


def test_a_job_may_come_before_its_queue(installed: Installation, queue: Queue) -> None:
    queue.close()
    installed.operator().start().wait_ready()
    queue.submit("early")
    queue.team.wait("it says what is missing", lambda: says(queue, "early", "Queued", "LocalQueue main doesn't exist"))
    queue.open()
    queue.team.finish("early")
    assert queue.team.phase("early") == "Succeeded"


def test_a_job_of_higher_priority_takes_the_place_of_a_running_one(installed: Installation, queue: Queue) -> None:
    team = queue.team
    for name, value in (("low", 1), ("high", 1000)):
        queue.set_priority(name, value)
    installed.operator().start().wait_ready()
    queue.submit("patient", "low", policy={"retries": 0})
    team.run_pod(team.advance_to("patient", Stage.TRAIN))
    queue.submit("urgent", "high")
    team.wait("the first is preempted", lambda: says(queue, "patient", "Queued", "reempt"))
    assert team.stage_pods("patient") == []
    team.wait("the urgent one starts", lambda: team.stage_pods("urgent"))
    team.finish("urgent", "patient")
    assert (team.phase("urgent"), team.phase("patient")) == ("Succeeded", "Succeeded")
    found = attempts(queue, "patient")
    assert (found["disruptions"], found["failures"]) == (1, 0)
    assert len([job for job in team.list_all("jobs") if "patient" in job["metadata"]["name"]]) == 4, "no new attempt"


def test_a_user_suspends_and_resumes_a_job_that_kueue_has_admitted(installed: Installation, queue: Queue) -> None:
    team = queue.team
    installed.operator().start().wait_ready()
    queue.submit("support-bot")
    team.run_pod(team.advance_to("support-bot", Stage.TRAIN))
    team.change("finetunejobs", "support-bot", {"spec": {"policy": {"suspend": True}}})
    team.wait("its pod goes", lambda: not team.stage_pods("support-bot"))
    queue.submit("other")
    team.wait("its quota is free for others", lambda: team.stage_pods("other"))
    team.finish("other")
    assert says(queue, "support-bot", "Suspended")
    assert team.stage_pods("support-bot") == []
    team.change("finetunejobs", "support-bot", {"spec": {"policy": {"suspend": False}}})
    team.finish("support-bot")
    assert attempts(queue, "support-bot")["disruptions"] == 0
    assert team.phase("support-bot") == "Succeeded"


def test_what_an_administrator_has_stopped_stays_so(installed: Installation, queue: Queue) -> None:
    team = queue.team
    installed.operator().start().wait_ready()
    queue.submit("support-bot")
    team.advance_to("support-bot", Stage.TRAIN)
    (running,) = [w for w in queue.workloads() if not _finished(w)]
    path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{team.namespace}/workloads/{running['metadata']['name']}"
    team.send("PATCH", path, {"spec": {"active": False}}, "merge-patch+json")
    team.wait("the job says so", lambda: says(queue, "support-bot", "QueueDeactivated", running["metadata"]["name"]))
    team.send("PATCH", path, {"spec": {"active": True}}, "merge-patch+json")
    team.finish("support-bot")
    assert team.phase("support-bot") == "Succeeded"


def test_an_operator_that_dies_while_a_job_waits_changes_nothing(installed: Installation, queue: Queue) -> None:
    team, operator = queue.team, installed.operator()
    operator.start().wait_ready()
    queue.submit("first")
    team.advance_to("first", Stage.TRAIN)
    queue.submit("second")
    team.wait("the second waits", lambda: says(queue, "second", "Queued", "quota"))
    operator.kill()
    operator.ended(within=10)
    team.work_through("first")
    operator.start().wait_ready()
    team.finish("first", "second")
    assert [attempts(queue, job)["count"] for job in ("first", "second")] == [4, 4]


def test_deleting_a_job_that_waits_leaves_nothing(installed: Installation, queue: Queue) -> None:
    team = queue.team
    queue.close()
    installed.operator().start().wait_ready()
    queue.submit("unwanted")
    team.wait("Kueue knows it", lambda: queue.workloads())
    team.delete("finetunejobs", "unwanted")
    team.wait("children and Workload are gone", lambda: not team.children() and not queue.workloads())


def test_an_operator_that_is_older_than_kueue_starts_again_to_follow_it(
    installed: Installation, kueue: KueueManager, queue: Queue
) -> None:
    team = queue.team
    operator = installed.operator(resync_seconds=1)
    installed.gateway.spoil = no_kueue
    operator.start().wait_ready()
    queue.submit("support-bot")
    team.advance_to("support-bot", Stage.TRAIN)
    installed.gateway.spoil = lambda _request: None
    assert operator.ended(within=30) == 1
    operator.start().wait_ready()
    team.finish("support-bot")
    assert team.phase("support-bot") == "Succeeded"


def _finished(workload: dict[str, Any]) -> bool:
    conditions = (workload.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Finished" and c["status"] == "True" for c in conditions)


def no_kueue(request: Request) -> Spoiled | None:
    """An API server that does not know Kueue's kinds."""
    return Spoiled(404, "NotFound") if "kueue" in request.resource or request.resource == "workloads" else None
