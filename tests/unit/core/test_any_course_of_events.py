"""Laws of the core under any course of events: crashes, preemptions, deletions, kills, suspensions, time."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from builders import make_job
from finetune_api import names
from finetune_api.conditions import Reason
from finetune_api.contract import ProgressReport, StageResult
from finetune_api.status import Phase, Progress, Stage
from finetune_operator.core.identity import child_name, owned_by
from finetune_operator.core.plan import plan
from finetune_operator.core.pod_status import is_live
from world import KilledError, World


class AnyCourseOfEvents(RuleBasedStateMachine):
    """One job in the small world, and everything that may befall it."""

    world: World
    ended: dict[str, Any] | None = None
    highest: dict[str, int]

    @initialize(retries=st.integers(0, 2), eval_rows=st.sampled_from([0, 10]), dry_run=st.booleans())
    def begin(self, retries: int, eval_rows: int, dry_run: bool) -> None:
        self.world = World(make_job().with_spec(policy={"retries": retries}, dryRun=dry_run).obj())
        self.world.eval_rows = eval_rows
        self.ended = None
        self.highest = {}

    @rule()
    def reconcile(self) -> None:
        self.world.reconcile()

    @rule(writes=st.integers(1, 3))
    def reconcile_and_be_killed(self, writes: int) -> None:
        self.world.writes_until_kill = writes
        try:
            self.world.reconcile()
        except KilledError:
            return
        self.world.writes_until_kill = None

    @precondition(lambda self: self.world.live_job is not None)
    @rule()
    def the_pod_starts(self) -> None:
        self.world.start_pod()

    @precondition(lambda self: self.world.live_job is not None)
    @rule()
    def the_stage_ends_well(self) -> None:
        self.world.end_pod()

    @precondition(lambda self: self.world.live_job is not None)
    @rule(code=st.sampled_from([1, 65, 69, 70, 137, 143]), oom=st.booleans())
    def the_stage_fails(self, code: int, oom: bool) -> None:
        self.world.end_pod(code, "", "OOMKilled" if oom and code == 137 else "Error")

    @precondition(lambda self: self.world.live_job is not None)
    @rule()
    def the_stage_is_preempted(self) -> None:
        job = self.world.live_job
        assert job is not None
        stage = self.world.stage_of(job)
        self.world.end_pod(75, StageResult(stage=stage, outcome="Preempted", reason=Reason.PREEMPTED))

    @precondition(lambda self: self.world.jobs)
    @rule(index=st.integers(0, 7))
    def somebody_deletes_a_job(self, index: int) -> None:
        self.world.remove_job([*self.world.jobs][index % len(self.world.jobs)])

    @rule()
    def all_pods_vanish(self) -> None:
        self.world.remove_pods()

    @rule(step=st.integers(0, 100), attempt=st.integers(1, 3), stage=st.sampled_from([*Stage]))
    def somebody_reports_progress(self, step: int, attempt: int, stage: Stage) -> None:
        assert self.world.job is not None
        progress = Progress(stage=stage, step=step, total_steps=100)
        self.world.report = ProgressReport(
            job_uid=self.world.job["metadata"]["uid"], attempt=attempt, progress=progress
        )

    @rule(suspend=st.booleans())
    def the_user_sets_suspend(self, suspend: bool) -> None:
        assert self.world.job is not None
        if self.world.job["spec"]["policy"].get("suspend", False) != suspend:
            self.world.job["spec"]["policy"]["suspend"] = suspend
            self.world.job["metadata"]["generation"] += 1

    @rule(seconds=st.sampled_from([1, 15, 60, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def terminal_never_changes(self) -> None:
        if self.ended is not None:
            assert self.world.status == self.ended
        elif self.world.phase.terminal:
            self.ended = dict(self.world.status)

    @invariant()
    def planning_is_deterministic_and_total(self) -> None:
        seen = self.world.observe(confirmed=True)
        assert plan(seen, self.world.now, self.world.configuration) == plan(
            seen, self.world.now, self.world.configuration
        )

    @invariant()
    def executing_a_plan_and_planning_again_ends(self) -> None:
        if self.world.writes_until_kill is None:
            self.world.settle()

    @invariant()
    def attempts_never_fall(self) -> None:
        for child in self.world.status.get("children", []):
            assert child["attempt"] >= self.highest.get(child["stage"], 0)
            self.highest[child["stage"]] = child["attempt"]

    @invariant()
    def at_most_one_attempt_of_a_stage_is_live(self) -> None:
        live = [j["metadata"]["labels"][names.LABEL_STAGE] for j in self.world.jobs.values() if not j.get("status")]
        assert len(live) == len(set(live))
        pods = [p["metadata"]["labels"][names.LABEL_STAGE] for p in self.world.pods.values() if is_live(p)]
        assert len(pods) == len(set(pods))

    @invariant()
    def every_child_is_owned_and_named_by_its_identity(self) -> None:
        assert self.world.job is not None
        for name, job in self.world.jobs.items():
            labels = job["metadata"]["labels"]
            want_name = child_name(self.world.job, Stage(labels[names.LABEL_STAGE]), int(labels[names.LABEL_ATTEMPT]))
            assert name == want_name
            assert owned_by(job, self.world.job)

    @invariant()
    def the_generation_is_observed(self) -> None:
        if self.world.status and not self.world.phase.terminal:
            assert self.world.job is not None
            assert self.world.status["observedGeneration"] == self.world.job["metadata"]["generation"]

    def teardown(self) -> None:
        """Whatever happened: left alone with stages that end well, the job ends."""
        if not hasattr(self, "world") or self.world.job is None:
            return
        self.world.writes_until_kill = None
        self.world.job["spec"]["policy"]["suspend"] = False
        for _ in range(60):
            self.world.settle()
            if self.world.phase.terminal:
                break
            self.world.pods = {k: p for k, p in self.world.pods.items() if not is_live(p)}
            if self.world.live_job is not None:
                self.world.end_pod()
            self.world.pass_time(400)
        assert self.world.phase in (Phase.SUCCEEDED, Phase.FAILED)


AnyCourseOfEvents.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyCourseOfEvents = AnyCourseOfEvents.TestCase
