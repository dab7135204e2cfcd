"""The whole operator in one call: plan(observed, now, configuration) -> Plan.

Level-triggered: it looks at everything there is and names the difference to what should be, whatever happened before.
"""

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from finetune_api import names
from finetune_api.conditions import ConditionType, Reason
from finetune_api.contract import StageResult, thinned
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    DISRUPTED_PODS_LIMIT,
    HISTORY_LIMIT,
    Child,
    CostReport,
    FineTuneJobStatus,
    Phase,
    Progress,
    Stage,
)
from finetune_operator.core import checks, failures, lineage, pod_status, queueing, spending, stages, suspension
from finetune_operator.core import status as statuses
from finetune_operator.core.actions import Deletion, Event, Patch, Plan, ProgressTarget
from finetune_operator.core.configuration import Configuration
from finetune_operator.core.events import events_between
from finetune_operator.core.identity import child_name, owned_by, uid_of
from finetune_operator.core.manifests.job import stage_job
from finetune_operator.core.manifests.network import network_policies
from finetune_operator.core.manifests.storage import workspace_claim
from finetune_operator.core.observed import Manifest, Observed, condition
from finetune_operator.core.timestamps import parse, seconds_between, stamp

__all__ = ["Deletion", "Event", "Patch", "Plan", "ProgressTarget", "plan"]

LOOK_AGAIN_SECONDS = 5.0
"""Time between two looks at a job whose model is awaited."""
PATIENCE_SECONDS = 15.0
"""A pod that has waited for less is starting; one that has waited longer gets its reason into the status."""


def plan(observed: Observed, now: datetime, configuration: Configuration) -> Plan:
    """Decide what to do for one job. Total, deterministic; after executing it, the next plan is empty."""
    if observed.job["metadata"].get("deletionTimestamp"):
        return Plan(reason="the job is being deleted; the garbage collector deletes its children")
    status = statuses.load_status(observed.job)
    if status.phase.terminal:
        return _after_the_end(observed, status, now)
    return _Planner(observed, status, now, configuration).plan()


def _after_the_end(observed: Observed, status: FineTuneJobStatus, now: datetime) -> Plan:
    """Terminal is final: nothing is created or rewritten any more, whatever happens to the children."""
    live = tuple(_deletion(job) for job in observed.jobs if _is_live(job) and owned_by(job, observed.job))
    ttl = ((observed.job.get("spec") or {}).get("policy") or {}).get("ttlSecondsAfterFinished")
    if ttl is None or status.completion_time is None:
        return Plan(delete=live, reason="the job has ended")
    left = ttl - seconds_between(status.completion_time, now)
    if left > 0:
        return Plan(delete=live, requeue_after=left, reason="the job has ended; it is deleted after its TTL")
    metadata = observed.job["metadata"]
    job = Deletion(names.API_VERSION, names.KIND, metadata["namespace"], metadata["name"], metadata["uid"])
    return Plan(delete=(job,), reason="the TTL of the ended job is over")


class _Planner:
    """Collects one plan for a job that has not ended."""

    def __init__(
        self, observed: Observed, status: FineTuneJobStatus, now: datetime, configuration: Configuration
    ) -> None:
        self.observed = observed
        self.now = now
        self.configuration = configuration
        self.stored = status
        self.status = status
        self.spec: FineTuneJobSpec
        self.result = Plan()
        self.uids: dict[Stage, str] = {}
        self.used: CostReport | None = None

    def plan(self) -> Plan:
        self._begin()
        spec = checks.read_spec(self.observed.job)
        if isinstance(spec, checks.Failure):
            self._fail(Stage.PREPARE, spec.reason, spec.message)
            return self._finish()
        self.spec = spec
        self._track_suspension()
        origin = lineage.trace(spec, self.status, self.observed)
        if isinstance(origin, checks.Failure):
            self._fail(Stage.PREPARE, origin.reason, origin.message)
            return self._finish()
        self.spec = spec = lineage.with_places(spec, origin)
        self.used = spending.spent(self.observed, spec, self.status, self.now)
        failure = (
            checks.refuse(spec) or checks.overdue(spec, self.status, self.now) or spending.overspent(spec, self.used)
        )
        if failure:
            self._fail(self._current_stage(), failure.reason, failure.message)
        elif isinstance(origin, lineage.Awaited):
            self._await(origin.message)
        else:
            self._update(lineage=origin)
            self._advance()
        return self._finish()

    # The frame of every plan

    def _begin(self) -> None:
        generation = self.observed.job["metadata"].get("generation") or 0
        update: dict[str, object] = {"observed_generation": generation}
        if self.status.start_time is None:
            update |= {"start_time": stamp(self.now), "active_since": stamp(self.now)}
        conditions = [c.model_copy(update={"observed_generation": generation}) for c in self.status.conditions]
        self.status = self.status.model_copy(update=update | {"conditions": conditions})
        for kind in statuses.CONDITION_OF.values():
            if statuses.get_condition(self.status, kind) is None:
                self._condition(kind, "Unknown", Reason.PENDING, "")
        self._condition(ConditionType.SUCCEEDED, "Unknown", Reason.ACTIVE, "the job has not ended yet")
        self._condition(ConditionType.RECONCILING, "True", Reason.ACTIVE, "")
        if statuses.get_condition(self.status, ConditionType.SUSPENDED) is None:
            self._condition(ConditionType.SUSPENDED, "False", Reason.NOT_SUSPENDED, "")

    def _finish(self) -> Plan:
        if self.result.needs_confirmation:
            return Plan(needs_confirmation=True, reason=self.result.reason)
        if statuses.changed(self.observed.job, self.status) is None:
            return self.result
        # Only beside other news: time passes in every plan, and would be written each time.
        self._update(cost=self.used or self.status.cost, last_update_time=stamp(self.now))
        for stage, uid in self.uids.items():
            child = statuses.child_of(self.status, stage)
            if child is not None:
                self.status = statuses.with_child(self.status, child.model_copy(update={"uid": uid}))
        events = events_between(self.stored, self.status)
        return replace(self.result, status=statuses.changed(self.observed.job, self.status), events=events)

    def _condition(self, kind: ConditionType, value: str, reason: Reason, message: str) -> None:
        self.status = statuses.with_condition(self.status, kind, value, reason, message, self.now)

    def _update(self, **fields: object) -> None:
        self.status = self.status.model_copy(update=fields)

    def _because(self, reason: str) -> None:
        self.result = replace(self.result, reason=reason)

    def _requeue(self, seconds: float) -> None:
        due = max(seconds, 1.0)
        earliest = due if self.result.requeue_after is None else min(due, self.result.requeue_after)
        self.result = replace(self.result, requeue_after=earliest)

    # Suspension and deadline

    @property
    def _suspended(self) -> bool:
        return self.spec.policy.suspend

    def _track_suspension(self) -> None:
        if self._suspended:
            self._hold(Reason.SUSPENDED, "suspended; set spec.policy.suspend to false to go on")
        elif suspension.reason_of(self.status) is Reason.SUSPENDED:
            self._release(Reason.RESUMED, "spec.policy.suspend is false again")
        left = checks.seconds_to_deadline(self.spec, self.status, self.now)
        if left is not None and left > 0:
            self._requeue(left)

    def _hold(self, reason: Reason, message: str) -> None:
        self.status = suspension.held(self.status, reason, message, self.now)

    def _release(self, reason: Reason, message: str) -> None:
        self.status = suspension.released(self.status, reason, message, self.now)

    # The course through the stages

    def _current_stage(self) -> Stage:
        return next((s for s in Stage if not stages.is_done(self.status, s)), Stage.EXPORT)

    def _advance(self) -> None:
        for stage in Stage:
            if stages.is_done(self.status, stage):
                continue
            if why := stages.why_not_needed(stage, self.spec, self.status):
                if not self._skip(stage, why):
                    return
            elif not self._work_on(stage):
                return
        self._succeed()

    def _await(self, message: str) -> None:
        """Nothing tells this job when another one changes, so it looks again by itself; that asks the cache only."""
        self._requeue(LOOK_AGAIN_SECONDS)
        if not self._suspended:
            self._condition(ConditionType.PREPARED, "Unknown", Reason.WAITING, message)
            self._update(message=message)

    def _skip(self, stage: Stage, why: str) -> bool:
        if stage is Stage.EVALUATE and self.spec.evaluation.gates and not self.spec.dry_run:
            self._fail(stage, Reason.GATE_UNMET, f"evaluation.gates cannot be judged: {why}")
            return False
        self._condition(statuses.CONDITION_OF[stage], "True", Reason.SKIPPED, f"skipped: {why}")
        return True

    def _work_on(self, stage: Stage) -> bool:
        """Do what the stage needs now; True once it has ended well."""
        view = stages.look_at(stage, self.status, self.observed)
        match view:
            case stages.Unrecorded():
                self._start(stage, 1)
            case stages.Missing():
                self._restore(stage, view.child)
            case stages.Active():
                self._attend(stage, view)
            case stages.Lost():
                self._leave_queue(stage)
                self._lost(stage, view.child, view.cause, _ended_at(view.job))
            case stages.Completed():
                self._leave_queue(stage)
                return self._complete(stage, view)
            case _:
                assert_never(view)
        return False

    def _start(self, stage: Stage, attempt: int) -> None:
        """Record the attempt, then create its Job; else a lost create could not be told from a deletion."""
        if self._suspended:
            self._because("suspended before the stage started")
            return
        child = Child(stage=stage, kind="Job", name=child_name(self.observed.job, stage, attempt), attempt=attempt)
        self.uids.pop(stage, None)
        self.status = statuses.with_child(self.status, child)
        attempts = self.status.attempts
        self._update(
            attempts=attempts.model_copy(update={"count": attempts.count + 1}),
            phase=statuses.PHASE_OF[stage],
            progress=Progress(stage=stage),
            message=f"waiting for the pod of stage {stage}",
        )
        if not any(t.stage is stage for t in self.status.stages):
            self.status = statuses.with_timing(self.status, stage, started_at=stamp(self.now))
        self._condition(statuses.CONDITION_OF[stage], "Unknown", Reason.RUNNING, f"attempt {attempt}")
        if queue := queueing.queue_of(self.observed.job):
            self._hold(Reason.QUEUED, f"queue {queue}: waiting")
        self._create(stage, child)

    def _restore(self, stage: Stage, child: Child) -> None:
        """The recorded Job is not there."""
        if not self.observed.confirmed:
            self.result = replace(self.result, needs_confirmation=True)
            self._because(f"the Job of stage {stage} is not in the cache")
        elif child.uid:
            self._lost(stage, child, stages.JOB_DELETED, self.now)
        elif self._suspended:
            self._because("suspended before the stage started")
        else:
            self._create(stage, child)

    def _create(self, stage: Stage, child: Child) -> None:
        leftovers = [p for p in stages.pods_of(self.observed, stage) if pod_status.is_live(p)]
        if leftovers:
            self._because(f"waiting until pod {leftovers[0]['metadata']['name']} of an earlier attempt has ended")
            return
        job = stage_job(
            self.observed.job,
            self.spec,
            stage,
            child.attempt,
            self.status.plan,
            self.configuration,
            self.status.lineage,
        )
        self.result = replace(self.result, create=(*self._shared_children(stage), job))
        self._report_refusals(stage)
        self._because(f"stage {stage} has no Job yet")

    def _shared_children(self, stage: Stage) -> tuple[Manifest, ...]:
        if stage is not Stage.PREPARE:
            return ()
        claim = workspace_claim(self.observed.job, self.spec)
        wanted = (*((claim,) if claim else ()), *network_policies(self.observed.job, self.spec, self.configuration))
        present = {(o["kind"], o["metadata"]["name"]) for o in self.observed.others if owned_by(o, self.observed.job)}
        return tuple(o for o in wanted if (o["kind"], o["metadata"]["name"]) not in present)

    def _report_refusals(self, stage: Stage) -> None:
        for refusal in self.observed.refusals[:1]:
            foreign = refusal.reason == "AlreadyExists"
            reason = Reason.NAME_CONFLICT if foreign else Reason.CHILD_REFUSED
            hint = "it belongs to somebody else; delete or rename it" if foreign else refusal.message
            message = f"cannot create {refusal.kind} {refusal.name}: {hint}"
            self._condition(statuses.CONDITION_OF[stage], "Unknown", reason, message)
            self._update(message=message)

    # A running stage

    def _attend(self, stage: Stage, view: stages.Active) -> None:
        self.uids[stage] = uid_of(view.job)
        self._count_disruptions(view)
        if queueing.queue_of(view.job):
            self._stand_in_line(stage, view.job)
        else:
            self._align_suspend(view.job)
            self._leave_queue(stage)
        if reason := suspension.reason_of(self.status):
            self._because(f"held: {reason}")
            return
        self._update(phase=statuses.PHASE_OF[stage])
        if stage in spending.PAID_STAGES and (left := spending.seconds_to_budget(self.spec, self.used)) is not None:
            self._requeue(left)
        pod = pod_status.newest(tuple(p for p in view.pods if pod_status.is_live(p)))
        if pod is None:
            self._because("waiting for the Job controller")
        elif pod_status.stage_container(pod).get("state", {}).get("running"):
            self._follow(stage, view, pod)
        else:
            self._wait_for(stage, pod)

    def _count_disruptions(self, view: stages.Active) -> None:
        """Of pods that the Job controller replaces by itself, each once: the attempt goes on in a new pod."""
        known = view.child.disrupted_pods
        new = [uid for uid in map(uid_of, filter(pod_status.replaced, view.pods)) if uid not in known]
        if not new:
            return
        child = view.child.model_copy(update={"disrupted_pods": [*known, *new][-DISRUPTED_PODS_LIMIT:]})
        self.status = statuses.with_child(self.status, child)
        attempts = self.status.attempts
        update = {"disruptions": attempts.disruptions + len(new), "last_reason": Reason.PREEMPTED}
        self._update(
            attempts=attempts.model_copy(update=update),
            message=f"the pod of stage {view.child.stage} was evicted or preempted; a new one takes its place",
        )

    def _align_suspend(self, job: Manifest) -> None:
        if bool(job["spec"].get("suspend")) != self._suspended:
            self._patch(job, {"spec": {"suspend": self._suspended}})

    def _patch(self, obj: Manifest, body: Manifest) -> None:
        patch = Patch(obj["kind"], obj["metadata"]["name"], uid_of(obj), body)
        self.result = replace(self.result, patch=(*self.result.patch, patch))

    def _stand_in_line(self, stage: Stage, job: Manifest) -> None:
        """Follow the queue's word on a Job that carries its label."""
        workload = queueing.workload_of(self.observed, job)
        for obj, body in queueing.wishes(self.observed.job, job, workload, suspend=self._suspended):
            self._patch(obj, body)
        if self._suspended:
            return
        match queueing.standing(job, workload, self.now):
            case queueing.Admitted():
                self._leave_queue(stage)
            case queueing.Queued(message):
                self._queue_up(message)
                if workload is None:
                    self._requeue(queueing.PATIENCE_SECONDS)
            case queueing.Deactivated(message):
                self._hold(Reason.QUEUE_DEACTIVATED, message)

    def _leave_queue(self, stage: Stage) -> None:
        """A Job that runs was admitted; so was one that has ended, though nobody may have looked meanwhile."""
        if not self._suspended and suspension.reason_of(self.status):
            self._release(Reason.ADMITTED, f"the queue has admitted stage {stage}")

    def _queue_up(self, message: str) -> None:
        condition = statuses.get_condition(self.status, ConditionType.SUSPENDED)
        if condition is not None and condition.reason == Reason.ADMITTED:
            attempts = self.status.attempts
            update = {"disruptions": attempts.disruptions + 1, "last_reason": Reason.PREEMPTED}
            self._update(attempts=attempts.model_copy(update=update))
        self._hold(Reason.QUEUED, message)

    def _follow(self, stage: Stage, view: stages.Active, pod: Manifest) -> None:
        self._condition(statuses.CONDITION_OF[stage], "Unknown", Reason.RUNNING, f"attempt {view.child.attempt}")
        ip = (pod.get("status") or {}).get("podIP") or ""
        target = ProgressTarget(pod["metadata"]["name"], ip, names.PROGRESS_PORT)
        self.result = replace(self.result, progress_from=target if ip else None)
        report = self.observed.report
        if (
            report is None
            or (report.job_uid, report.attempt) != (uid_of(self.observed.job), view.child.attempt)
            or report.progress.stage is not stage
        ):
            self._because(f"stage {stage} runs")
            return
        self.status = statuses.with_progress(self.status, report)
        message = statuses.progress_message(report)
        self._update(message=message or f"stage {stage} runs")
        if stage is Stage.TRAIN:
            self._watch_for_hang(stage, view, report.progress.updated_at)

    def _watch_for_hang(self, stage: Stage, view: stages.Active, updated_at: str | None) -> None:
        timeout = self.spec.policy.hang_timeout_seconds
        silent = seconds_between(updated_at, self.now) if updated_at else 0.0
        if silent < timeout:
            self._requeue(timeout - silent)
            return
        message = f"no step for {statuses.duration(silent)} (policy.hangTimeoutSeconds: {timeout})"
        self.result = replace(self.result, delete=(_deletion(view.job, "Foreground"),), progress_from=None)
        self._lost(stage, view.child, failures.Cause(Reason.HANG, message, "retry"), None)

    def _wait_for(self, stage: Stage, pod: Manifest) -> None:
        waited = seconds_between(pod["metadata"]["creationTimestamp"], self.now)
        problem = pod_status.waiting_for(pod)
        if problem is None:
            self._because("the pod is starting")
        elif waited < PATIENCE_SECONDS:
            self._requeue(PATIENCE_SECONDS - waited)
        else:
            reason, message = problem
            self._condition(statuses.CONDITION_OF[stage], "Unknown", reason, message)
            self._update(message=message[: statuses.MESSAGE_LIMIT])

    # The end of an attempt

    def _lost(self, stage: Stage, child: Child, cause: failures.Cause, ended_at: datetime | None) -> None:
        """The attempt is lost: end the job, wait, or start the next attempt."""
        attempts = self.status.attempts
        counted = attempts.failures + (cause.verdict == "retry")
        if cause.verdict == "stop":
            self._keep(cause.result)
            self._fail(stage, cause.reason, cause.message)
        elif counted > self.spec.policy.retries:
            self._fail(
                stage,
                Reason.RETRIES_EXHAUSTED,
                f"stage {stage} was lost {counted} times (policy.retries: {self.spec.policy.retries}); "
                f"last {cause.reason}: {cause.message}",
            )
        elif self._suspended:
            self._because("suspended between two attempts")
        elif (wait := self._backoff(counted, cause, ended_at)) > 0:
            self._retry_later(stage, cause, wait)
        else:
            self._next_attempt(stage, child, cause, counted)

    def _backoff(self, failed: int, cause: failures.Cause, ended_at: datetime | None) -> float:
        if ended_at is None or cause.verdict == "disruption":
            return 0.0
        limit = self.configuration.retry_backoff_limit_seconds
        delay = min(limit, self.configuration.retry_backoff_seconds * 2.0 ** (failed - 1))
        return delay - (self.now - ended_at).total_seconds()

    def _retry_later(self, stage: Stage, cause: failures.Cause, wait: float) -> None:
        message = f"{cause.reason}: {cause.message}; trying again"
        self._condition(statuses.CONDITION_OF[stage], "Unknown", Reason.RETRYING, message)
        self._update(message=message[: statuses.MESSAGE_LIMIT])
        self._requeue(wait)

    def _next_attempt(self, stage: Stage, child: Child, cause: failures.Cause, counted: int) -> None:
        attempts = self.status.attempts
        update = {
            "failures": counted,
            "disruptions": attempts.disruptions + (cause.verdict == "disruption"),
            "last_reason": cause.reason,
        }
        self._update(attempts=attempts.model_copy(update=update))
        self._start(stage, child.attempt + 1)
        self._update(
            message=f"attempt {child.attempt} of stage {stage} was lost ({cause.reason}): {cause.message}"[:1024]
        )

    def _complete(self, stage: Stage, view: stages.Completed) -> bool:
        if view.result is None and not self.observed.confirmed:
            self.result = replace(self.result, needs_confirmation=True)
            self._because(f"the result of stage {stage} is not in the cache")
            return False
        if view.result is None:
            self._lost(stage, view.child, stages.RESULT_LOST, _ended_at(view.job))
            return False
        self.uids[stage] = uid_of(view.job)
        self._keep(view.result)
        self._note_image(view.pods)
        self.status = statuses.with_timing(self.status, stage, completed_at=stamp(_ended_at(view.job)))
        self._update(attempts=self.status.attempts.model_copy(update={"failures": 0}))
        self._condition(statuses.CONDITION_OF[stage], "True", Reason.COMPLETED, view.result.message)
        return True

    def _keep(self, result: StageResult | None) -> None:
        """Take over what a stage found out; what its message had no room for stays as progress reported it."""
        if result is None:
            return
        found = {name: getattr(result, name) for name in ("dataset", "plan", "metrics", "evaluation", "checkpoint")}
        self._update(**{name: value for name, value in found.items() if value is not None})
        if len(result.history) > len(self.status.history):
            self._update(history=thinned(result.history, HISTORY_LIMIT))
        if result.artifacts:
            self._update(artifacts=result.artifacts)

    def _note_image(self, pods: tuple[Manifest, ...]) -> None:
        pod = pod_status.newest(pods)
        image = pod_status.stage_container(pod).get("imageID", "") if pod else ""
        if self.status.plan is not None and image and not self.status.plan.trainer_image:
            self._update(plan=self.status.plan.model_copy(update={"trainer_image": image}))

    # The end of the job

    def _succeed(self) -> None:
        reason = Reason.DRY_RUN_COMPLETED if self.spec.dry_run else Reason.COMPLETED
        message = "dry run: see status.plan and status.dataset" if self.spec.dry_run else ""
        message = message or statuses.success_message(self.status)
        self._condition(ConditionType.SUCCEEDED, "True", reason, message)
        self.status = statuses.without_conditions(self.status, (ConditionType.RECONCILING, ConditionType.STALLED))
        progress = self.status.progress
        if progress is not None:
            self._update(progress=progress.model_copy(update={"percent": 100, "seconds_left": None}))
        self._end(Phase.SUCCEEDED, message)

    def _fail(self, stage: Stage, reason: Reason, message: str) -> None:
        self._condition(statuses.CONDITION_OF[stage], "False", reason, message)
        self._condition(ConditionType.SUCCEEDED, "False", reason, message)
        self._condition(ConditionType.STALLED, "True", reason, message)
        self.status = statuses.without_conditions(self.status, (ConditionType.RECONCILING,))
        live = tuple(_deletion(j) for j in self.observed.jobs if _is_live(j) and owned_by(j, self.observed.job))
        self.result = replace(self.result, create=(), patch=(), delete=live, requeue_after=None, progress_from=None)
        self._end(Phase.FAILED, message)

    def _end(self, phase: Phase, message: str) -> None:
        self.status = suspension.with_stopped_clock(self.status, self.now)
        self._update(phase=phase, message=message[: statuses.MESSAGE_LIMIT], completion_time=stamp(self.now))
        ttl = self.observed.job["spec"].get("policy", {}).get("ttlSecondsAfterFinished")
        if ttl is not None:
            self._requeue(ttl)
        self._because("the job has ended")


def _is_live(job: Manifest) -> bool:
    return not (condition(job, "Complete") or condition(job, "Failed"))


def _deletion(job: Manifest, propagation: str = "Background") -> Deletion:
    metadata = job["metadata"]
    return Deletion(
        "batch/v1",
        "Job",
        metadata["namespace"],
        metadata["name"],
        metadata["uid"],
        propagation,  # type: ignore[arg-type]
    )


def _ended_at(job: Manifest) -> datetime:
    ended = condition(job, "Complete") or condition(job, "Failed") or {}
    return parse(ended.get("lastTransitionTime") or job["metadata"]["creationTimestamp"])
