"""A small world for the core: an API server that stores, a Job controller and a kubelet that can be told what happens.

It executes plans as the shell does, in the same order, and can stop after any write as a killed operator would.
"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

from builders import CONFIGURATION, NOW, finished, job_from, make_result, merged, pod_of, workload_of
from finetune_api import names
from finetune_api.contract import ProgressReport, StageResult
from finetune_api.status import Phase, Stage
from finetune_operator.core.configuration import Configuration
from finetune_operator.core.observed import Observed, Refusal, essence
from finetune_operator.core.plan import Plan, plan
from finetune_operator.core.timestamps import parse


class KilledError(Exception):
    """The operator was killed after a write."""


class World:
    """One FineTuneJob and all that belongs to it."""

    def __init__(self, job: dict[str, Any], configuration: Configuration = CONFIGURATION) -> None:
        self.job: dict[str, Any] | None = job
        self.configuration = configuration
        self.now = NOW
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.others: dict[str, dict[str, Any]] = {}
        self.workloads: dict[str, dict[str, Any]] = {}
        self.parent: dict[str, Any] | None = None
        self.report: ProgressReport | None = None
        self.refusals: tuple[Refusal, ...] = ()
        self.history: list[str] = []
        self.events: list[str] = []
        self.writes_until_kill: int | None = None
        self.eval_rows = 10

    # The operator

    def observe(self, confirmed: bool = False) -> Observed:
        assert self.job is not None
        return copy.deepcopy(
            Observed(
                job=essence(self.job),
                jobs=tuple(map(essence, self.jobs.values())),
                pods=tuple(map(essence, self.pods.values())),
                others=tuple(map(essence, self.others.values())),
                parent=essence(self.parent) if self.parent else None,
                workloads=tuple(map(essence, self.workloads.values())),
                report=self.report,
                confirmed=confirmed,
                refusals=self.refusals,
            )
        )

    def plan(self) -> Plan:
        decided = plan(self.observe(), self.now, self.configuration)
        return (
            plan(self.observe(confirmed=True), self.now, self.configuration) if decided.needs_confirmation else decided
        )

    def reconcile(self) -> Plan:
        decided = self.plan()
        self.execute(decided)
        return decided

    def settle(self) -> Plan:
        """Reconcile until nothing is left to do now."""
        for _ in range(10):
            decided = self.reconcile()
            if not (decided.status or decided.create or decided.patch or decided.delete):
                return decided
        raise AssertionError(f"the plan never becomes empty: {decided}")

    def execute(self, decided: Plan) -> None:
        if decided.status is not None:
            assert self.job is not None
            self.job["status"] = copy.deepcopy(decided.status)
            self._wrote("status")
        for manifest in decided.create:
            self._create(manifest)
        for patch in decided.patch:
            shelf = self.jobs if patch.kind == "Job" else self.workloads
            shelf[patch.name] = merged(shelf[patch.name], copy.deepcopy(patch.body))
            self._wrote(f"patch {patch.kind} {patch.name}")
        for deletion in decided.delete:
            self._delete(deletion.kind, deletion.name)
        self.events += [f"{e.type} {e.reason}" for e in decided.events]

    def _create(self, manifest: dict[str, Any]) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        shelf = self.jobs if kind == "Job" else self.others
        if name not in shelf:
            shelf[name] = job_from(manifest, created=self.now)
            self._wrote(f"create {kind} {name}")

    def _delete(self, kind: str, name: str) -> None:
        if kind == names.KIND:
            self.job = None
        else:
            self.remove_job(name)
        self._wrote(f"delete {kind} {name}")

    def _wrote(self, what: str) -> None:
        self.history.append(what)
        if self.writes_until_kill is not None:
            self.writes_until_kill -= 1
            if self.writes_until_kill <= 0:
                self.writes_until_kill = None
                raise KilledError

    # The rest of the cluster

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def live_job(self) -> dict[str, Any] | None:
        return next((j for j in self.jobs.values() if not (j.get("status") or {}).get("conditions")), None)

    def stage_of(self, job: dict[str, Any]) -> Stage:
        return Stage(job["metadata"]["labels"][names.LABEL_STAGE])

    def start_pod(self) -> dict[str, Any]:
        """The pod of the live Job starts to run."""
        job = self.live_job
        assert job is not None, "no Job is live"
        pod = pod_of(job, created=self.now).running().obj()
        self.pods[pod["metadata"]["name"]] = pod
        return pod

    def end_pod(self, exit_code: int = 0, result: StageResult | str | None = None, reason: str = "") -> None:
        """The pod of the live Job ends, and with it the Job."""
        job = self.live_job
        assert job is not None, "no Job is live"
        if result is None and exit_code == 0:
            result = make_result(self.stage_of(job), self.eval_rows)
        message = result.termination_message() if isinstance(result, StageResult) else result or ""
        name = pod_of(job).obj()["metadata"]["name"]
        created = parse(self.pods[name]["metadata"]["creationTimestamp"]) if name in self.pods else self.now
        pod = pod_of(job, created=created).ended(exit_code, message, reason, at=self.now).obj()
        self.pods[pod["metadata"]["name"]] = pod
        self.jobs[job["metadata"]["name"]] = finished(job, "Failed" if exit_code else "Complete", self.now)

    def remove_job(self, name: str) -> None:
        """Somebody deletes a Job; the garbage collector takes its pods."""
        self.jobs.pop(name, None)
        self.pods = {key: pod for key, pod in self.pods.items() if not key.startswith(f"{name}-")}

    def remove_pods(self) -> None:
        self.pods.clear()

    # The queue

    def notice(self) -> dict[str, Any]:
        """Kueue takes notice of the live Job."""
        job = self.live_job
        assert job is not None, "no Job is live"
        workload = workload_of(job)
        self.workloads[workload["metadata"]["name"]] = workload
        return workload

    def say(self, workload: dict[str, Any], kind: str, value: str, reason: str, message: str) -> None:
        """Kueue sets a condition of its Workload."""
        stored = self.workloads[workload["metadata"]["name"]]
        others = [c for c in stored["status"].get("conditions", []) if c["type"] != kind]
        stored["status"]["conditions"] = [
            *others,
            {"type": kind, "status": value, "reason": reason, "message": message},
        ]

    def admit(self) -> None:
        """Kueue lets the live Job run."""
        assert self.live_job is not None, "no Job is live"
        self.live_job["spec"]["suspend"] = False

    def evict(self) -> None:
        """Kueue stops the live Job; its pod ends and goes."""
        assert self.live_job is not None, "no Job is live"
        self.live_job["spec"]["suspend"] = True
        self.remove_pods()

    # What is to be seen

    @property
    def status(self) -> dict[str, Any]:
        assert self.job is not None
        return self.job.get("status") or {}

    @property
    def phase(self) -> Phase:
        return Phase(self.status.get("phase", "Pending"))

    def condition(self, kind: str) -> dict[str, Any]:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    def run_to_the_end(self, limit: int = 40) -> None:
        """Every stage runs and ends well until the job has ended."""
        for _ in range(limit):
            try:
                self.settle()
            except KilledError:
                continue
            if self.phase.terminal:
                return
            if self.live_job is not None:
                self.end_pod()
            self.pass_time(1)
        raise AssertionError(f"the job did not end: {self.status}")
