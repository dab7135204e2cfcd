"""One result of training and one evaluation for a job with several adapters. Pure."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from finetune_api.contract import StageResult, thinned
from finetune_api.status import HISTORY_LIMIT, AdapterEvaluation, Evaluation, HistoryPoint, Plan, Stage
from finetune_trainer.evaluating.gates import unmet
from finetune_trainer.failures import shortened


def whole_training(plan: Plan, results: Mapping[str, StageResult]) -> StageResult:
    """The result of training all adapters of `plan`: one curve after the other, the last one's measurements."""
    starts = [0, *accumulate(adapter.total_steps for adapter in plan.adapters)]
    before = {adapter.name: start for adapter, start in zip(plan.adapters, starts, strict=False)}
    peaks = [result.metrics.peak_memory_bytes for result in results.values() if result.metrics]
    peak = max((value for value in peaks if value is not None), default=None)
    name, last = [*results.items()][-1]
    metrics, checkpoint = last.metrics, last.checkpoint
    return StageResult(
        stage=Stage.TRAIN,
        outcome="Succeeded",
        message=shortened("; ".join(f"{name}: {result.message}" for name, result in results.items())),
        metrics=metrics.model_copy(update={"adapter": name, "peak_memory_bytes": peak}) if metrics else None,
        history=thinned(
            [point for name, result in results.items() for point in shifted(result.history, name, before[name])],
            HISTORY_LIMIT,
        ),
        checkpoint=checkpoint.model_copy(update={"step": before[name] + checkpoint.step}) if checkpoint else None,
        plan=plan.model_copy(update={"memory": plan.memory.model_copy(update={"measured_peak_bytes": peak})}),
    )


def shifted(points: Sequence[HistoryPoint], adapter: str, before: int) -> list[HistoryPoint]:
    """The curve of `adapter` as a part of the job's, in which `before` steps of other adapters come first."""
    return [point.model_copy(update={"step": before + point.step, "adapter": adapter}) for point in points]


def whole_evaluation(evaluations: Mapping[str, Evaluation]) -> Evaluation:
    """The figures of each adapter, on its own held-out rows."""
    return Evaluation(
        rows=sum(evaluation.rows for evaluation in evaluations.values()),
        adapters=[
            AdapterEvaluation(
                name=name,
                rows=evaluation.rows,
                baseline=evaluation.baseline,
                tuned=evaluation.tuned,
                gates=evaluation.gates,
            )
            for name, evaluation in evaluations.items()
        ],
    )


def unmet_bars(evaluation: Evaluation) -> str:
    """Gates that are not met and on how many rows, with the adapter that they are about; empty when all are met."""
    judged: dict[str, Evaluation | AdapterEvaluation] = {f"of adapter {a.name} ": a for a in evaluation.adapters}
    judged = judged or {"": evaluation}
    return "; ".join(
        f"{whose}on {found.rows} held-out rows: {bars}"
        for whose, found in judged.items()
        if (bars := unmet(found.gates))
    )
