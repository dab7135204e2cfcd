"""How a status changes: conditions, progress, the sentence for a person, and the events that a change deserves."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from finetune_api.conditions import ConditionType, Reason
from finetune_api.contract import ProgressReport, thinned
from finetune_api.status import (
    HISTORY_LIMIT,
    AdapterEvaluation,
    Child,
    Condition,
    Evaluation,
    FineTuneJobStatus,
    Phase,
    Stage,
    StageTiming,
)
from finetune_operator.core.observed import Manifest
from finetune_operator.core.timestamps import stamp

CONDITION_OF = {
    Stage.PREPARE: ConditionType.PREPARED,
    Stage.TRAIN: ConditionType.TRAINED,
    Stage.EVALUATE: ConditionType.EVALUATED,
    Stage.EXPORT: ConditionType.EXPORTED,
}
PHASE_OF = {
    Stage.PREPARE: Phase.PREPARING,
    Stage.TRAIN: Phase.TRAINING,
    Stage.EVALUATE: Phase.EVALUATING,
    Stage.EXPORT: Phase.EXPORTING,
}
UNIT_OF = {Stage.PREPARE: "step", Stage.TRAIN: "step", Stage.EVALUATE: "row", Stage.EXPORT: "artifact"}
"""What a stage counts."""
MESSAGE_LIMIT = 1024


def load_status(job: Manifest) -> FineTuneJobStatus:
    """The stored status; fields of another version of the operator are left out."""
    return FineTuneJobStatus.model_validate(job.get("status") or {}, extra="ignore")


def changed(job: Manifest, status: FineTuneJobStatus) -> Manifest | None:
    """The status to write, or None when the stored one says the same."""
    document = status.to_json()
    return None if document == (job.get("status") or {}) else document


def get_condition(status: FineTuneJobStatus, kind: ConditionType) -> Condition | None:
    """The condition of type `kind`."""
    return next((c for c in status.conditions if c.type == kind), None)


def with_condition(
    status: FineTuneJobStatus,
    kind: ConditionType,
    value: str,
    reason: Reason,
    message: str,
    now: datetime,
) -> FineTuneJobStatus:
    """`status` with the condition set; lastTransitionTime moves only when its value changes."""
    old = get_condition(status, kind)
    since = old.last_transition_time if old and old.status == value else stamp(now)
    new = Condition(
        type=kind,
        status=value,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        last_transition_time=since,
        observed_generation=status.observed_generation,
    )
    order = [*ConditionType]
    conditions = sorted(
        [*(c for c in status.conditions if c.type != kind), new], key=lambda c: order.index(ConditionType(c.type))
    )
    return status.model_copy(update={"conditions": conditions})


def without_conditions(status: FineTuneJobStatus, kinds: Iterable[ConditionType]) -> FineTuneJobStatus:
    """`status` without the conditions of these types."""
    unwanted = set(kinds)
    return status.model_copy(update={"conditions": [c for c in status.conditions if c.type not in unwanted]})


def child_of(status: FineTuneJobStatus, stage: Stage) -> Child | None:
    """The current child of a stage."""
    return next((c for c in status.children if c.stage is stage), None)


def with_child(status: FineTuneJobStatus, child: Child) -> FineTuneJobStatus:
    """`status` with `child` as the current one of its stage."""
    others = [c for c in status.children if c.stage is not child.stage]
    order = [*Stage]
    return status.model_copy(update={"children": sorted([*others, child], key=lambda c: order.index(c.stage))})


def with_timing(status: FineTuneJobStatus, stage: Stage, **moments: str) -> FineTuneJobStatus:
    """`status` with when the stage started or ended."""
    old = next((t for t in status.stages if t.stage is stage), None)
    known = old.model_dump(exclude={"stage"}) if old else {}
    new = StageTiming(stage=stage, **(known | moments))
    return status.model_copy(update={"stages": [*(t for t in status.stages if t.stage is not stage), new]})


def with_progress(status: FineTuneJobStatus, report: ProgressReport) -> FineTuneJobStatus:
    """`status` with what the running pod reported; what it does not mention stays."""
    update: dict[str, Any] = {"progress": report.progress}
    if report.metrics:
        update["metrics"] = report.metrics
    if report.history:
        update["history"] = thinned(report.history, HISTORY_LIMIT)
    if report.checkpoint:
        update["checkpoint"] = report.checkpoint
    return status.model_copy(update=update)


def progress_message(report: ProgressReport) -> str:
    """As in `step 120 of 480, loss 1.83, 4 min left`; of several adapters with the name of the one that is trained."""
    progress, metrics = report.progress, report.metrics
    unit = UNIT_OF[progress.stage]
    parts = [f"adapter {progress.adapter}"] if progress.adapter else []
    if progress.total_steps:
        parts.append(f"{unit} {progress.step} of {progress.total_steps}")
    if progress.stage is Stage.TRAIN and metrics and metrics.loss is not None:
        parts.append(f"loss {metrics.loss:.3g}")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """As in `45 s`, `4 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{int(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def success_message(status: FineTuneJobStatus) -> str:
    """What the job achieved, in one sentence."""
    artifacts = f"{len(status.artifacts)} artifact{'s' if len(status.artifacts) != 1 else ''} published"
    start = status.plan.method.start if status.plan else "base model"
    comparison = _comparisons(status.evaluation, start) if status.evaluation else ""
    return f"{comparison}; {artifacts}" if comparison else artifacts


def _comparisons(evaluation: Evaluation, start: str) -> str:
    if not evaluation.adapters:
        return ", ".join(_comparison(evaluation, start)[:2])
    return "; ".join(f"{a.name}: {found}" for a in evaluation.adapters for found in _comparison(a, start)[:1])


def _comparison(evaluation: Evaluation | AdapterEvaluation, start: str) -> list[str]:
    return [
        f"{metric} {tuned:.4g} ({start} {evaluation.baseline[metric]:.4g})"
        if metric in evaluation.baseline
        else f"{metric} {tuned:.4g}"
        for metric, tuned in sorted(evaluation.tuned.items(), key=_by_interest)
    ]


def _by_interest(item: tuple[str, float]) -> tuple[bool, str]:
    return item[0] in ("perplexity", "eval_loss"), item[0]
