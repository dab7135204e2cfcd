"""What happens to a job from its first sight to its end, over the small world of tests/world.py."""

from collections import Counter

import pytest

from builders import finished, make_job, pod_of
from finetune_api.conditions import Reason
from finetune_api.contract import ProgressReport, StageResult
from finetune_api.exit_codes import ExitCode
from finetune_api.status import (
    DISRUPTED_PODS_LIMIT,
    AdapterEvaluation,
    Checkpoint,
    Evaluation,
    FineTuneJobStatus,
    Metrics,
    Phase,
    Progress,
    Stage,
)
from finetune_operator.core.observed import Refusal
from finetune_operator.core.plan import plan
from finetune_operator.core.status import progress_message, success_message
from world import World

STAGES = [*Stage]


def creates(world: World) -> list[str]:
    return [entry for entry in world.history if entry.startswith("create Job")]


def test_a_job_goes_through_its_four_stages_and_succeeds() -> None:
    world = World(make_job().obj())
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
    assert [entry.split("-")[2] for entry in creates(world)] == [str(s) for s in STAGES]
    assert {k: world.condition(k)["status"] for k in ("Succeeded", "Prepared", "Trained", "Evaluated", "Exported")} == {
        "Succeeded": "True",
        "Prepared": "True",
        "Trained": "True",
        "Evaluated": "True",
        "Exported": "True",
    }
    assert not world.condition("Reconciling")
    assert not world.condition("Stalled")
    assert world.status["message"] == "exact-match 0.86 (base model 0); 1 artifact published"


def test_the_workspace_and_the_isolation_are_created_before_the_first_job() -> None:
    world = World(make_job().obj())
    world.settle()
    kinds = [entry.split()[-2] if " " in entry else entry for entry in world.history]
    assert kinds == ["status", "PersistentVolumeClaim", "NetworkPolicy", "Job"]


def test_a_converged_job_is_left_alone() -> None:
    world = World(make_job().obj())
    world.settle()
    world.start_pod()
    world.settle()
    before = list(world.history)
    world.pass_time(300)
    world.settle()
    assert world.history == before


def test_a_user_claim_is_used_and_never_created() -> None:
    world = World(make_job().with_spec(output={"workspace": {"claimName": "shared"}}).obj())
    world.settle()
    assert not any("PersistentVolumeClaim" in entry for entry in world.history)
    assert "shared" in str(world.live_job)


def test_without_held_out_rows_the_evaluation_has_no_pod() -> None:
    world = World(make_job().obj())
    world.eval_rows = 0
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
    assert world.condition("Evaluated")["reason"] == "Skipped"
    assert [entry.split("-")[2] for entry in creates(world)] == ["prepare", "train", "export"]


def test_gates_without_held_out_rows_fail_the_job() -> None:
    gates = [{"metric": "exact-match", "atLeast": 0.5}]
    world = World(make_job().with_spec(evaluation={"gates": gates}).obj())
    world.eval_rows = 0
    world.run_to_the_end()
    assert world.phase is Phase.FAILED
    assert world.condition("Evaluated")["reason"] == Reason.GATE_UNMET


def test_each_turning_point_is_told_once() -> None:
    world = World(make_job().obj())
    world.run_to_the_end()
    assert [event.split()[1] for event in world.events] == ["Prepared", "Trained", "Evaluated", "Succeeded"]


def test_the_status_says_when_it_was_written_last() -> None:
    world = World(make_job().obj())
    world.settle()
    first = world.status["lastUpdateTime"]
    world.pass_time(5)
    world.settle()
    assert world.status["lastUpdateTime"] == first, "nothing was written"
    world.end_pod()
    world.settle()
    assert world.status["lastUpdateTime"] > first


def test_a_dry_run_ends_after_prepare() -> None:
    world = World(make_job().with_spec(dryRun=True).obj())
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
    assert len(creates(world)) == 1
    assert world.condition("Succeeded")["reason"] == Reason.DRY_RUN_COMPLETED
    assert world.status["plan"]["training"]["totalSteps"] == 100


def test_progress_reaches_the_status() -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod()
    world.settle()
    world.start_pod()
    assert world.job is not None
    world.report = ProgressReport(
        job_uid=world.job["metadata"]["uid"],
        attempt=1,
        progress=Progress(stage=Stage.TRAIN, step=120, total_steps=480, percent=25, seconds_left=240),
        metrics=Metrics(loss=1.834),
        checkpoint=Checkpoint(step=100, saved_at="2026-11-21T12:00:00Z", verified=True),
    )
    decided = world.reconcile()
    assert decided.progress_from is not None
    assert world.status["message"] == "step 120 of 480, loss 1.83, 4 min left"
    assert world.status["metrics"]["loss"] == "1.834"
    assert world.status["checkpoint"]["step"] == 100


def test_of_several_adapters_the_message_names_the_one_that_is_trained() -> None:
    progress = Progress(stage=Stage.TRAIN, step=120, total_steps=480, adapter="billing")
    report = ProgressReport(job_uid="a", attempt=1, progress=progress, metrics=Metrics(loss=1.834))
    assert progress_message(report) == "adapter billing, step 120 of 480, loss 1.83"


def test_success_says_what_each_adapter_has_achieved() -> None:
    measured = [
        AdapterEvaluation(
            name=name, rows=9, baseline={"exact-match": 0.0}, tuned={"exact-match": value, "eval_loss": 1}
        )
        for name, value in (("billing", 0.86), ("returns", 0.5))
    ]
    status = FineTuneJobStatus(evaluation=Evaluation(rows=18, adapters=measured))
    want = "billing: exact-match 0.86 (base model 0); returns: exact-match 0.5 (base model 0); 0 artifacts published"
    assert success_message(status) == want


@pytest.mark.parametrize(
    ("stage", "want"),
    [
        (Stage.PREPARE, "step 1 of 3"),
        (Stage.TRAIN, "step 1 of 3"),
        (Stage.EVALUATE, "row 1 of 3"),
        (Stage.EXPORT, "artifact 1 of 3"),
    ],
)
def test_each_stage_counts_what_it_works_on(stage: Stage, want: str) -> None:
    progress = Progress(stage=stage, step=1, total_steps=3)
    assert progress_message(ProgressReport(job_uid="a", attempt=1, progress=progress)) == want


@pytest.mark.parametrize(
    ("uid", "attempt", "stage"), [("other", 1, Stage.TRAIN), ("", 2, Stage.TRAIN), ("", 1, Stage.PREPARE)]
)
def test_progress_of_another_job_attempt_or_stage_is_ignored(uid: str, attempt: int, stage: Stage) -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod()
    world.settle()
    world.start_pod()
    assert world.job is not None
    world.report = ProgressReport(
        job_uid=uid or world.job["metadata"]["uid"], attempt=attempt, progress=Progress(stage=stage, step=7)
    )
    assert world.reconcile().status is None


def test_a_crash_is_retried_after_a_backoff_under_a_new_name() -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod(1, "Traceback\nRuntimeError: boom")
    decided = world.settle()
    assert decided.requeue_after == pytest.approx(10)
    assert len(creates(world)) == 1
    world.pass_time(11)
    world.settle()
    assert len(set(creates(world))) == 2
    assert world.status["attempts"] == {"count": 2, "failures": 1, "disruptions": 0, "lastReason": "Crashed"}
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_crashes_beyond_the_retries_end_the_job_with_the_last_cause() -> None:
    world = World(make_job().with_spec(policy={"retries": 2}).obj())
    for _ in range(3):
        world.settle()
        world.end_pod(1, "RuntimeError: boom")
        world.settle()
        world.pass_time(400)
    world.settle()
    assert world.phase is Phase.FAILED
    assert len(creates(world)) == 3
    assert world.condition("Succeeded")["reason"] == Reason.RETRIES_EXHAUSTED
    assert "RuntimeError: boom" in world.status["message"]
    assert world.condition("Stalled")["status"] == "True"


def test_each_stage_has_all_the_retries() -> None:
    world = World(make_job().with_spec(policy={"retries": 1}).obj())
    for _ in range(2):
        world.settle()
        world.end_pod(1, "RuntimeError: boom")
        world.pass_time(60)
        world.settle()
        world.end_pod()
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
    assert world.status["attempts"]["failures"] == 0


def test_each_pod_that_the_job_controller_replaces_is_counted_once() -> None:
    world = World(make_job().obj())
    world.settle()
    assert world.live_job is not None
    for count in range(1, DISRUPTED_PODS_LIMIT + 3):
        evicted = pod_of(world.live_job, f"pod-{count}").disrupted(f"uid-{count}").obj()
        world.pods[evicted["metadata"]["name"]] = evicted
        world.start_pod()
        world.settle()
        assert world.status["attempts"]["disruptions"] == count
        assert world.status["attempts"]["count"] == 1
        del world.pods[evicted["metadata"]["name"]]
        world.settle()
    assert world.events.count("Warning Preempted") == DISRUPTED_PODS_LIMIT + 2
    world.end_pod()
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_preemptions_do_not_use_up_retries() -> None:
    world = World(make_job().with_spec(policy={"retries": 0}).obj())
    for _ in range(5):
        world.settle()
        world.end_pod(75, StageResult(stage=Stage.PREPARE, outcome="Preempted", reason=Reason.PREEMPTED))
        world.pass_time(60)
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
    assert world.status["attempts"]["disruptions"] == 5


@pytest.mark.parametrize(
    ("exit_code", "kubernetes_reason", "want"),
    [
        (137, "OOMKilled", Reason.OUT_OF_MEMORY),
        (65, "Error", Reason.INVALID_DATA),
        (66, "Error", Reason.SOURCE_NOT_FOUND),
        (70, "Error", Reason.NON_FINITE_LOSS),
        (78, "Error", Reason.NOT_SUPPORTED),
    ],
)
def test_a_failure_that_would_repeat_itself_is_not_retried(
    exit_code: int, kubernetes_reason: str, want: Reason
) -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod(exit_code, "", kubernetes_reason)
    world.settle()
    assert world.phase is Phase.FAILED
    assert world.condition("Prepared")["reason"] == want
    assert len(creates(world)) == 1


def test_an_oom_names_the_limit_and_the_remedy() -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod(137, "", "OOMKilled")
    world.settle()
    assert "memory limit of 4Gi" in world.status["message"]
    assert "resources.memory" in world.status["message"]


def test_bad_data_ends_in_preparing_with_the_trainers_own_words() -> None:
    world = World(make_job().obj())
    world.settle()
    message = "train.jsonl: line 12: not JSON"
    world.end_pod(65, StageResult(stage=Stage.PREPARE, outcome="Failed", reason=Reason.INVALID_DATA, message=message))
    world.settle()
    assert world.condition("Prepared") | {"lastTransitionTime": ""} == {
        "type": "Prepared",
        "status": "False",
        "reason": "InvalidData",
        "message": message,
        "lastTransitionTime": "",
        "observedGeneration": 1,
    }
    assert world.events[-2:] == ["Warning InvalidData", "Warning InvalidData"]


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"distributed": {"strategy": "fsdp"}}, "not supported yet: distributed.strategy=fsdp"),
        ({"output": {"destination": "oci://registry/model"}}, "not supported yet: output.destination=oci"),
        ({"training": {"learningRate": {"a": 1}}}, "spec.training.learningRate"),
        ({"model": {"trustRemoteCode": True}}, "model.trustRemoteCode"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_before_anything_is_created(spec: dict, want: str) -> None:
    world = World(make_job().with_spec(**spec).obj())
    world.settle()
    assert world.phase is Phase.FAILED
    assert want in world.condition("Prepared")["message"]
    assert world.history == ["status"]


def test_a_lost_result_repeats_the_stage() -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod()
    world.remove_pods()
    world.settle()
    world.pass_time(11)
    world.settle()
    assert len(creates(world)) == 2
    assert world.status["attempts"]["lastReason"] == Reason.RESULT_LOST
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_a_job_that_somebody_deletes_gets_another_attempt() -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod()
    world.settle()
    world.start_pod()
    assert world.job is not None
    world.report = ProgressReport(
        job_uid=world.job["metadata"]["uid"], attempt=1, progress=Progress(stage=Stage.TRAIN, step=7, total_steps=9)
    )
    world.settle()
    assert world.live_job is not None
    world.remove_job(world.live_job["metadata"]["name"])
    world.settle()
    assert len(set(creates(world))) == 3
    assert world.status["attempts"]["disruptions"] == 1
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_no_second_attempt_starts_while_a_pod_of_the_first_still_runs() -> None:
    world = World(make_job().obj())
    world.settle()
    assert world.live_job is not None
    name = world.live_job["metadata"]["name"]
    pod = world.start_pod()
    world.jobs.pop(name)
    world.settle()
    assert len(creates(world)) == 1
    world.pods.pop(pod["metadata"]["name"])
    world.settle()
    assert len(creates(world)) == 2


def test_absence_in_the_cache_is_never_believed() -> None:
    world = World(make_job().obj())
    world.settle()
    hidden = dict(world.jobs)
    world.jobs.clear()
    assert plan(world.observe(), world.now, world.configuration).needs_confirmation
    world.jobs = hidden


@pytest.mark.parametrize("stage", STAGES)
def test_terminal_is_final_whatever_happens_to_the_children(stage: Stage) -> None:
    world = World(make_job().obj())
    world.run_to_the_end()
    before = dict(world.status)
    for name in [n for n in world.jobs if f"-{stage}-" in n]:
        world.remove_job(name)
    world.remove_pods()
    world.others.clear()
    count = len(world.history)
    world.settle()
    assert world.status == before
    assert len(world.history) == count


def test_a_job_under_deletion_gets_nothing_new() -> None:
    world = World(make_job().deleted().obj())
    decided = world.reconcile()
    assert not world.history
    assert decided.reason


def test_suspend_stops_the_job_and_resume_goes_on() -> None:
    world = World(make_job().obj())
    world.settle()
    world.start_pod()
    assert world.job is not None
    world.job["spec"]["policy"] = {"suspend": True}
    world.job["metadata"]["generation"] = 2
    world.settle()
    assert world.phase is Phase.SUSPENDED
    assert world.condition("Suspended")["status"] == "True"
    assert world.live_job is not None
    assert world.live_job["spec"]["suspend"] is True
    world.job["spec"]["policy"] = {"suspend": False}
    world.job["metadata"]["generation"] = 3
    world.settle()
    assert world.live_job["spec"]["suspend"] is False
    assert world.condition("Suspended")["status"] == "False"
    assert world.status["observedGeneration"] == 3
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_a_job_that_is_born_suspended_creates_nothing() -> None:
    world = World(make_job().suspended().obj())
    world.settle()
    assert world.phase is Phase.SUSPENDED
    assert creates(world) == []


def test_the_deadline_counts_active_time_only() -> None:
    world = World(make_job().with_spec(policy={"activeDeadlineSeconds": 100}).obj())
    world.settle()
    world.pass_time(60)
    assert world.job is not None
    world.job["spec"]["policy"]["suspend"] = True
    world.settle()
    world.pass_time(1000)
    world.settle()
    assert world.phase is Phase.SUSPENDED
    world.job["spec"]["policy"]["suspend"] = False
    decided = world.reconcile()
    assert decided.requeue_after == pytest.approx(40)
    world.pass_time(41)
    world.settle()
    assert world.phase is Phase.FAILED
    assert world.condition("Succeeded")["reason"] == Reason.DEADLINE_EXCEEDED
    assert world.live_job is None


def test_the_ttl_deletes_the_ended_job() -> None:
    world = World(make_job().with_spec(policy={"ttlSecondsAfterFinished": 60}).obj())
    world.run_to_the_end()
    assert world.reconcile().requeue_after == pytest.approx(60, abs=5)
    world.pass_time(61)
    world.reconcile()
    assert world.job is None


@pytest.mark.parametrize(
    ("message", "want_reason", "want_phase"),
    [
        (
            "Container trainer for pod a/b-1 failed with exit code 70 matching FailJob rule at index 1",
            "NonFiniteLoss",
            1,
        ),
        ("Container trainer for pod a/b-1 failed with exit code 77 matching FailJob rule at index 1", "GateUnmet", 1),
        ("Job has reached the specified backoff limit", "Crashed", 0),
    ],
)
def test_when_the_pod_is_gone_the_job_still_tells_its_exit_code(
    message: str, want_reason: str, want_phase: int
) -> None:
    world = World(make_job().obj())
    world.settle()
    job = world.live_job
    assert job is not None
    world.jobs[job["metadata"]["name"]] = finished(job, "Failed", world.now, message)
    world.pass_time(60)
    world.settle()
    assert world.phase is (Phase.FAILED if want_phase else Phase.PREPARING)
    found = world.condition("Succeeded")["reason"] if want_phase else world.status["attempts"]["lastReason"]
    assert found == want_reason


@pytest.mark.parametrize(
    ("deleted", "known", "want"), [(True, True, "Preempted"), (True, False, "Preempted"), (False, True, "Crashed")]
)
def test_a_pod_that_somebody_deletes_is_a_disruption_even_if_it_had_to_be_killed(
    deleted: bool, known: bool, want: str
) -> None:
    world = World(make_job().obj())
    world.settle()
    world.end_pod(exit_code=137)
    (pod,) = world.pods.values()
    if deleted:
        pod["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    if not known:
        del pod["status"]["containerStatuses"]
    world.pass_time(60)
    world.settle()
    assert world.status["attempts"]["lastReason"] == want
    assert world.status["attempts"].get("disruptions", 0) == int(deleted)


def test_a_final_exit_code_fails_the_job_at_once_and_a_disruption_never_does() -> None:
    world = World(make_job().obj())
    world.settle()
    assert world.live_job is not None
    ignore, fail = world.live_job["spec"]["podFailurePolicy"]["rules"]
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert fail["action"] == "FailJob"
    assert set(fail["onExitCodes"]["values"]) == {*range(64, 80)} - {ExitCode.SOURCE_UNAVAILABLE, ExitCode.PREEMPTED}


def test_a_hang_starts_the_stage_again_once_the_old_pod_is_gone() -> None:
    world = World(make_job().with_spec(policy={"hangTimeoutSeconds": 60}).obj())
    world.settle()
    world.end_pod()
    world.settle()
    pod = world.start_pod()
    assert world.job is not None
    progress = Progress(stage=Stage.TRAIN, step=5, total_steps=9, updated_at="2026-11-21T12:00:00Z")
    world.report = ProgressReport(job_uid=world.job["metadata"]["uid"], attempt=1, progress=progress)
    world.settle()
    world.pass_time(120)
    world.reconcile()
    world.pods[pod["metadata"]["name"]] = pod
    world.settle()
    assert len(creates(world)) == 2
    assert world.status["attempts"]["lastReason"] == Reason.HANG
    world.remove_pods()
    world.settle()
    assert len(creates(world)) == 3


@pytest.mark.parametrize(
    ("state", "want_reason", "want_message"),
    [
        ("unschedulable", Reason.UNSCHEDULABLE, "no node can take the pod: 0/1 nodes are available"),
        ("image", Reason.IMAGE_UNAVAILABLE, "the trainer image cannot be pulled"),
        ("config", Reason.WAITING, 'secret "hf-token" not found'),
    ],
)
def test_a_pod_that_cannot_start_says_why(state: str, want_reason: Reason, want_message: str) -> None:
    world = World(make_job().obj())
    world.settle()
    assert world.live_job is not None
    builder = pod_of(world.live_job)
    pod = {
        "unschedulable": lambda: builder.unschedulable("0/1 nodes are available: 1 Insufficient memory"),
        "image": lambda: builder.waiting("ImagePullBackOff", "Back-off pulling image"),
        "config": lambda: builder.waiting("CreateContainerConfigError", 'secret "hf-token" not found'),
    }[state]().obj()
    world.pods[pod["metadata"]["name"]] = pod
    assert world.settle().requeue_after == pytest.approx(15)
    world.pass_time(20)
    world.settle()
    assert world.condition("Prepared")["reason"] == want_reason
    assert want_message in world.status["message"]
    world.end_pod()
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_a_refused_child_is_a_condition() -> None:
    world = World(make_job().obj())
    decided = world.plan()
    world.job["status"] = decided.status  # type: ignore[index]
    world.refusals = (Refusal("Job", "support-bot-prepare-1", "Forbidden", "exceeded quota: gpu"),)
    world.settle()
    assert world.condition("Prepared")["reason"] == Reason.CHILD_REFUSED
    assert "exceeded quota: gpu" in world.status["message"]
    world.refusals = ()
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED


def test_killed_after_any_write_the_job_ends_the_same_with_the_same_children() -> None:
    reference = World(make_job().obj())
    reference.run_to_the_end()
    want = Counter(h.split()[1] for h in reference.history if h.startswith("create"))
    for index in range(1, len(reference.history) + 1):
        world = World(make_job().obj())
        world.writes_until_kill = index
        world.run_to_the_end()
        assert world.phase is Phase.SUCCEEDED, f"killed after write {index}"
        assert Counter(h.split()[1] for h in world.history if h.startswith("create")) == want, f"after write {index}"


def test_a_foreign_job_of_the_same_name_is_not_taken_for_ours() -> None:
    world = World(make_job().obj())
    world.settle()
    assert world.live_job is not None
    world.live_job["metadata"]["ownerReferences"][0]["uid"] = "somebody-else"
    decided = world.reconcile()
    assert [m["kind"] for m in decided.create] == ["Job"]


def test_status_is_read_also_when_a_newer_operator_wrote_it() -> None:
    world = World(make_job().obj())
    world.settle()
    assert world.job is not None
    world.job["status"]["fieldOfTomorrow"] = {"a": 1}
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
