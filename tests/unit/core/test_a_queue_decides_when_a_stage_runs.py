"""A job with a queue label: created suspended, started by the queue alone, and truthful about what it waits for."""

from typing import Any

import pytest

from builders import make_job, workload_of
from finetune_api.conditions import Reason
from finetune_api.status import Phase, Stage
from finetune_operator.core.queueing import QUEUE_LABEL
from world import World

NO_QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 2 more needed"


def queued_world(**policy: Any) -> World:
    world = World(make_job().in_queue("gpus").with_spec(policy=policy).obj())
    world.settle()
    return world


def set_policy(world: World, **policy: Any) -> None:
    assert world.job is not None
    world.job["spec"]["policy"] = policy
    world.job["metadata"]["generation"] += 1
    world.settle()


def the_job(world: World) -> dict[str, Any]:
    assert world.live_job is not None
    return world.live_job


def test_a_child_is_created_suspended_with_all_that_the_queue_is_told() -> None:
    job = make_job().in_queue("gpus", **{"kueue.x-k8s.io/priority-class": "high", "team": "x"}).obj()
    job["metadata"]["annotations"] = {"kueue.x-k8s.io/podset-preferred-topology": "rack", "note": "y"}
    world = World(job)
    world.settle()
    child = the_job(world)
    assert child["spec"]["suspend"] is True
    assert child["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert child["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert "team" not in child["metadata"]["labels"]
    annotations = child["spec"]["template"]["metadata"]["annotations"]
    assert annotations["kueue.x-k8s.io/podset-preferred-topology"] == "rack"
    assert "note" not in annotations


def test_without_a_label_a_child_starts_at_once() -> None:
    world = World(make_job().obj())
    world.settle()
    assert "suspend" not in the_job(world)["spec"]


def test_what_the_queue_waits_for_is_what_the_job_says() -> None:
    world = queued_world()
    assert (world.phase, world.status["message"]) == (Phase.SUSPENDED, "queue gpus: waiting")
    workload = world.notice()
    world.say(workload, "QuotaReserved", "False", "Pending", NO_QUOTA)
    world.settle()
    condition = world.condition("Suspended")
    assert (condition["status"], condition["reason"]) == ("True", Reason.QUEUED)
    assert condition["message"] == world.status["message"] == f"queue gpus: {NO_QUOTA}"
    assert the_job(world)["spec"]["suspend"] is True


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({}, "waiting"),
        ({"conditions": [{"type": "Evicted", "status": "True", "message": "Preempted to accommodate b"}]}, "Preempted"),
        (
            {
                "conditions": [{"type": "QuotaReserved", "status": "True", "message": "reserved"}],
                "admissionChecks": [{"name": "provisioning", "state": "Pending", "message": "waiting for nodes"}],
            },
            "provisioning: waiting for nodes",
        ),
        ({"conditions": [{"type": "QuotaReserved", "status": "False", "message": "queue is stopped"}]}, "is stopped"),
    ],
)
def test_the_queues_own_reason_is_found(status: dict[str, Any], want: str) -> None:
    world = queued_world()
    world.notice()["status"] = status
    world.settle()
    assert want in world.status["message"]


def test_a_queue_manager_that_is_not_there_is_named() -> None:
    world = queued_world()
    world.pass_time(31)
    world.settle()
    assert "is Kueue installed" in world.status["message"]
    assert world.phase is Phase.SUSPENDED


def test_a_job_goes_through_the_queue_stage_by_stage() -> None:
    world = queued_world()
    phases = []
    for stage in Stage:
        assert world.phase is Phase.SUSPENDED
        assert world.stage_of(the_job(world)) is stage
        world.notice()
        world.admit()
        world.settle()
        phases.append(world.phase)
        assert world.condition("Suspended")["reason"] == Reason.ADMITTED
        world.end_pod()
        world.settle()
    assert phases == [Phase.PREPARING, Phase.TRAINING, Phase.EVALUATING, Phase.EXPORTING]
    assert world.phase is Phase.SUCCEEDED
    assert world.status["attempts"] == {"count": 4, "failures": 0, "disruptions": 0, "lastReason": ""}
    assert not [entry for entry in world.history if entry.startswith("patch")], "the queue alone starts Jobs"


def test_admission_before_the_operator_has_seen_the_workload_is_admission() -> None:
    world = queued_world()
    world.admit()
    world.settle()
    assert world.phase is Phase.PREPARING


@pytest.mark.parametrize(("exit_code", "want"), [(0, Phase.SUCCEEDED), (65, Phase.FAILED)])
def test_a_stage_that_ended_while_nobody_looked_waits_for_no_queue(exit_code: int, want: Phase) -> None:
    world = World(make_job().in_queue("gpus").with_spec(dryRun=True).obj())
    world.settle()
    world.admit()
    world.end_pod(exit_code)
    world.settle()
    assert world.phase is want
    assert world.condition("Suspended")["status"] == "False"


def test_a_preemption_is_a_disruption_and_no_retry() -> None:
    world = queued_world(retries=0)
    workload = world.notice()
    world.admit()
    world.settle()
    world.start_pod()
    world.say(workload, "Evicted", "True", "Preempted", "Preempted to accommodate a workload of higher priority")
    world.evict()
    world.settle()
    assert world.phase is Phase.SUSPENDED
    assert "higher priority" in world.status["message"]
    assert world.status["attempts"]["disruptions"] == 1
    assert world.status["attempts"]["lastReason"] == Reason.PREEMPTED
    world.settle()
    assert world.status["attempts"]["disruptions"] == 1
    world.admit()
    world.settle()
    assert world.phase is Phase.PREPARING
    assert f"Warning {Reason.PREEMPTED}" in world.events


def test_a_user_stops_the_workload_and_not_the_job_and_starts_it_again() -> None:
    world = queued_world()
    name = world.notice()["metadata"]["name"]
    world.admit()
    world.settle()
    set_policy(world, suspend=True)
    assert world.workloads[name]["spec"]["active"] is False
    assert the_job(world)["spec"]["suspend"] is False, "Kueue would start a Job again that it has admitted"
    assert world.condition("Suspended")["reason"] == Reason.SUSPENDED
    world.evict()
    world.settle()
    set_policy(world, suspend=False)
    assert world.workloads[name]["spec"]["active"] is True
    assert world.phase is Phase.SUSPENDED
    assert world.condition("Suspended")["reason"] == Reason.QUEUED
    assert world.status["attempts"]["disruptions"] == 0
    world.admit()
    world.settle()
    assert world.phase is Phase.PREPARING


def test_a_waiting_job_that_the_user_suspends_is_not_admitted() -> None:
    world = queued_world()
    name = world.notice()["metadata"]["name"]
    set_policy(world, suspend=True)
    assert world.workloads[name]["spec"]["active"] is False


def test_what_the_queue_manager_has_deactivated_only_somebodys_hand_activates() -> None:
    world = queued_world()
    workload = world.notice()
    workload["spec"]["active"] = False
    world.say(workload, "Evicted", "True", "DeactivatedDueToRequeuingLimitExceeded", "The workload exceeded its limit")
    world.settle()
    condition = world.condition("Suspended")
    assert condition["reason"] == Reason.QUEUE_DEACTIVATED
    assert "exceeded its limit; set spec.active of Workload" in condition["message"]
    assert world.workloads[workload["metadata"]["name"]]["spec"]["active"] is False


def test_waiting_in_the_queue_does_not_count_against_the_deadline() -> None:
    world = queued_world(activeDeadlineSeconds=100)
    world.pass_time(1000)
    world.settle()
    assert world.phase is Phase.SUSPENDED
    world.admit()
    world.settle()
    world.pass_time(101)
    world.settle()
    assert world.condition("Succeeded")["reason"] == Reason.DEADLINE_EXCEEDED


def test_a_waiting_stage_moves_to_the_queue_that_the_job_names_now() -> None:
    world = queued_world()
    world.notice()
    assert world.job is not None
    world.job["metadata"]["labels"][QUEUE_LABEL] = "others"
    world.settle()
    assert the_job(world)["metadata"]["labels"][QUEUE_LABEL] == "others"
    world.admit()
    world.settle()
    world.job["metadata"]["labels"][QUEUE_LABEL] = "third"
    world.settle()
    assert the_job(world)["metadata"]["labels"][QUEUE_LABEL] == "others", "it runs"


def test_somebody_elses_workload_is_not_looked_at() -> None:
    world = queued_world()
    other = workload_of({"metadata": {"name": "x", "namespace": "team-a", "uid": "other"}})
    other["spec"]["active"] = False
    world.workloads["other"] = other
    world.settle()
    assert world.condition("Suspended")["reason"] == Reason.QUEUED
