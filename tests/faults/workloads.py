"""What happens to one FineTuneJob when nothing goes wrong around the operator: ten short lives.

A workload is a script of the user's and the kubelet's actions. It waits for what it sees, so that it plays the same
against an operator that is killed, cut off or late.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from apiserver.team import Object, pod_report
from builders import make_result
from faults.arena import NOT_NOW, Arena
from finetune_api import names
from finetune_api.exit_codes import ExitCode
from finetune_api.status import Phase, Stage
from job_documents import smallest

NAME = "job"


class Actor:
    """The user and the kubelet of one FineTuneJob."""

    def __init__(self, arena: Arena, name: str = NAME) -> None:
        self.arena = arena
        self.name = name

    # The user

    def submit(self, **spec: object) -> None:
        document = smallest(self.name)
        document["spec"] |= spec
        team = self.arena.team

        def create() -> None:
            if not self.arena.job(self.name):
                team.send("POST", team.path("finetunejobs"), document)

        self.arena.insist("the job is submitted", create)
        self.arena.until("the job is there", lambda: self.arena.job(self.name))

    def change(self, **policy: object) -> None:
        patch = {"spec": {"policy": policy}}
        self.arena.insist("the job is changed", lambda: self.arena.team.change("finetunejobs", self.name, patch))

    def delete(self) -> None:
        uid = self.arena.job(self.name)["metadata"]["uid"]

        def gone() -> bool:
            return bool(self.arena.job(self.name).get("metadata", {}).get("uid") != uid)

        def remove() -> None:
            if not gone():
                self.arena.team.delete("finetunejobs", self.name)

        self.arena.insist("the job is deleted", remove)
        self.arena.until("the job is gone", gone)

    # The kubelet

    def pod(self, stage: Stage, attempt: int = 1) -> Object:
        """The live pod of an attempt; empty when there is none."""
        wanted = {names.LABEL_STAGE: str(stage), names.LABEL_ATTEMPT: str(attempt)}
        return next((p for p in self.arena.all("pods") if _live(p) and wanted.items() <= _labels(p).items()), {})

    def wait_for_pod(self, stage: Stage, attempt: int = 1) -> Object:
        self.arena.until(f"attempt {attempt} of {stage} has a pod", lambda: self.pod(stage, attempt))
        return self.pod(stage, attempt)

    def run(self, stage: Stage, attempt: int = 1) -> None:
        """The container of the stage starts."""
        state = {"running": {"startedAt": now()}}
        self._tell(stage, attempt, "Running", state, podIP="127.0.0.1", podIPs=[{"ip": "127.0.0.1"}])

    def end(self, stage: Stage, attempt: int = 1, code: int = 0, reason: str = "", message: str | None = None) -> None:
        """The container of the stage ends, with the result of its stage unless told otherwise."""
        if message is None:
            message = "" if code else make_result(stage).termination_message()
        state = _terminated(code, message, reason or ("Error" if code else "Completed"))
        self._tell(stage, attempt, "Failed" if code else "Succeeded", state)

    def _tell(self, stage: Stage, attempt: int, phase: str, state: dict[str, Any], **more: object) -> None:
        def tell() -> None:
            self._report(self.wait_for_pod(stage, attempt), phase, state, **more)

        self.arena.insist(f"the pod of {stage} is {phase}", tell)

    def _report(self, pod: Object, phase: str, state: dict[str, Any], **more: object) -> None:
        path = f"{self.arena.team.path('pods', pod['metadata']['name'])}/status"
        self.arena.team.send("PATCH", path, pod_report(phase, state, **more), "merge-patch+json")

    # What is to be seen

    @property
    def phase(self) -> Phase:
        return Phase(self.arena.status(self.name).get("phase") or "Pending")

    def wait_ended(self) -> None:
        self.arena.until("the job ends", lambda: self.phase.terminal)

    def finish(self) -> None:
        """End every pod well until the job ends; one that is gone meanwhile is replaced by another."""

        def ended() -> bool:
            for pod in [p for p in self.arena.all("pods") if _live(p) and names.LABEL_STAGE in _labels(p)]:
                message = make_result(Stage(_labels(pod)[names.LABEL_STAGE])).termination_message()
                with contextlib.suppress(*NOT_NOW):
                    self._report(pod, "Succeeded", _terminated(0, message, "Completed"))
                self.arena.breathe(0.1)
            return self.phase.terminal

        self.arena.until("the job ends", ended)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _terminated(code: int, message: str, reason: str) -> dict[str, Any]:
    ended = {"exitCode": code, "startedAt": now(), "finishedAt": now(), "message": message, "reason": reason}
    return {"terminated": ended}


def _live(pod: Object) -> bool:
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _labels(pod: Object) -> dict[str, str]:
    return pod["metadata"].get("labels") or {}


# The lives


def success(actor: Actor) -> None:
    actor.submit()
    for stage in Stage:
        actor.end(stage)
    actor.wait_ended()


def bad_data(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE, code=ExitCode.INVALID_DATA, message="train.jsonl:3: no prompt")
    actor.wait_ended()


def out_of_memory(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.end(Stage.TRAIN, code=ExitCode.KILLED, reason="OOMKilled")
    actor.wait_ended()


def crash_then_success(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.end(Stage.TRAIN, code=ExitCode.CRASHED, message="CUDA error")
    actor.end(Stage.TRAIN, attempt=2)
    actor.end(Stage.EVALUATE)
    actor.end(Stage.EXPORT)
    actor.wait_ended()


def disruption_then_success(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.run(Stage.TRAIN)
    actor.end(Stage.TRAIN, code=ExitCode.TERMINATED)
    actor.end(Stage.TRAIN, attempt=2)
    actor.end(Stage.EVALUATE)
    actor.end(Stage.EXPORT)
    actor.wait_ended()


def suspend_and_resume(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.wait_for_pod(Stage.TRAIN)
    actor.change(suspend=True)
    actor.arena.until("the job is suspended", lambda: actor.phase is Phase.SUSPENDED)
    actor.arena.until("its pod is gone", lambda: not actor.pod(Stage.TRAIN))
    actor.change(suspend=False)
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.EXPORT):
        actor.end(stage)
    actor.wait_ended()


def dry_run(actor: Actor) -> None:
    actor.submit(dryRun=True)
    actor.end(Stage.PREPARE)
    actor.wait_ended()


def deleted_while_training(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.wait_for_pod(Stage.TRAIN)
    actor.delete()
    actor.arena.until("nothing is left", lambda: not actor.arena.children())


def deadline_exceeded(actor: Actor) -> None:
    actor.submit()
    actor.end(Stage.PREPARE)
    actor.wait_for_pod(Stage.TRAIN)
    actor.change(activeDeadlineSeconds=1)
    actor.wait_ended()
    actor.arena.until("the stage's Job is gone", lambda: not actor.pod(Stage.TRAIN))


def expired(actor: Actor) -> None:
    actor.submit(dryRun=True, policy={"ttlSecondsAfterFinished": 2})
    actor.end(Stage.PREPARE)
    actor.wait_ended()
    actor.arena.until("the job is deleted after its TTL", lambda: not actor.arena.job(actor.name))
    actor.arena.until("nothing is left", lambda: not actor.arena.children())


@dataclass(frozen=True)
class Workload:
    """One life, and how many writes of the operator it takes at least."""

    name: str
    play: Callable[[Actor], None]
    writes: int = 0
    settings: dict[str, object] = field(default_factory=dict)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("success", success, 16),
        Workload("bad-data", bad_data, 8),
        Workload("out-of-memory", out_of_memory, 11),
        Workload("crash-then-success", crash_then_success, 19),
        Workload("disruption-then-success", disruption_then_success, 19),
        Workload("suspend-and-resume", suspend_and_resume, 22),
        Workload("dry-run", dry_run, 7),
        Workload("deleted-while-training", deleted_while_training, 8),
        Workload("deadline-exceeded", deadline_exceeded, 12),
        Workload("expired", expired, 8),
    )
}
