"""The order of the stages, which of them a job needs, and what is to be seen of one of them."""

from dataclasses import dataclass

from finetune_api import names
from finetune_api.conditions import Reason
from finetune_api.contract import StageResult, parse_result
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Child, FineTuneJobStatus, Stage
from finetune_operator.core import failures, pod_status
from finetune_operator.core.identity import owned_by
from finetune_operator.core.observed import Manifest, Observed, condition
from finetune_operator.core.status import CONDITION_OF, child_of, get_condition


@dataclass(frozen=True)
class Unrecorded:
    """The stage has not been started."""


@dataclass(frozen=True)
class Missing:
    """The stage was recorded, and its Job is not there: never created, or deleted by somebody."""

    child: Child


@dataclass(frozen=True)
class Active:
    """The Job is there and has not ended."""

    child: Child
    job: Manifest
    pods: tuple[Manifest, ...]


@dataclass(frozen=True)
class Completed:
    """The Job is complete; `result` is None when its pod, or the pod's message, is gone."""

    child: Child
    job: Manifest
    pods: tuple[Manifest, ...]
    result: StageResult | None


@dataclass(frozen=True)
class Lost:
    """The Job has failed."""

    child: Child
    job: Manifest
    cause: failures.Cause


View = Unrecorded | Missing | Active | Completed | Lost


def is_done(status: FineTuneJobStatus, stage: Stage) -> bool:
    """Whether the stage has ended well or is not needed; this is what `status.conditions` remember."""
    condition = get_condition(status, CONDITION_OF[stage])
    return condition is not None and condition.status == "True"


def why_not_needed(stage: Stage, spec: FineTuneJobSpec, status: FineTuneJobStatus) -> str:
    """Why a job has nothing to do in this stage; empty when it has."""
    if spec.dry_run and stage is not Stage.PREPARE:
        return "spec.dryRun is true"
    if stage is Stage.EVALUATE and status.dataset is not None and status.dataset.eval_rows == 0:
        return "there are no held-out rows"
    return ""


def look_at(stage: Stage, status: FineTuneJobStatus, observed: Observed) -> View:
    """What is to be seen of a stage."""
    child = child_of(status, stage)
    if child is None:
        return Unrecorded()
    job = next((j for j in observed.jobs if j["metadata"]["name"] == child.name and owned_by(j, observed.job)), None)
    if job is None:
        return Missing(child)
    pods = pods_of(observed, stage, child.attempt)
    if condition(job, "Complete"):
        return Completed(child, job, pods, _result(pods, stage))
    if condition(job, "Failed"):
        return Lost(child, job, failures.cause_of(job, pods, stage))
    return Active(child, job, pods)


def _result(pods: tuple[Manifest, ...], stage: Stage) -> StageResult | None:
    for pod in pods:
        terminated = pod_status.terminated_state(pod)
        result = parse_result(terminated.get("message") or "")
        if terminated.get("exitCode") == 0 and result and result.stage is stage and result.outcome == "Succeeded":
            return result
    return None


def pods_of(observed: Observed, stage: Stage, attempt: int | None = None) -> tuple[Manifest, ...]:
    """Pods of a stage, of one attempt or of all."""
    return tuple(
        pod
        for pod in observed.pods
        if _label(pod, names.LABEL_STAGE) == stage and attempt in (None, int(_label(pod, names.LABEL_ATTEMPT) or 0))
    )


def _label(pod: Manifest, key: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(key) or "")


RESULT_LOST = failures.Cause(
    Reason.RESULT_LOST,
    "the pod of the completed stage is gone before its result was read; the stage repeats it",
    "retry",
)
JOB_DELETED = failures.Cause(
    Reason.JOB_DELETED,
    "somebody deleted the stage's Job; a new attempt goes on from the newest checkpoint",
    "disruption",
)
