"""Stage train: from tokenised rows and a base model to tuned weights in workspace.tuned.

Decides where training starts from (the newest checkpoint that verifies, or the beginning), when it counts as done, and
which weights are kept. Must not look at spec where the plan has the answer, and never leaves an unfinished result.
"""

from dataclasses import dataclass
from typing import Any

import structlog
from transformers import TrainerState

from finetune_api.contract import StageResult
from finetune_api.status import Checkpoint, Metrics, Plan, Stage
from finetune_trainer.errors import SourceNotFoundError
from finetune_trainer.named_adapters.results import whole_training
from finetune_trainer.named_adapters.runs import adapter_runs, named
from finetune_trainer.ownership import confirm_attempt
from finetune_trainer.result import finished_before, store
from finetune_trainer.run import Run
from finetune_trainer.training import guards, memory, preemption
from finetune_trainer.training.arguments import check_supported
from finetune_trainer.training.assembly import build_trainer, checkpoint_store, load_base, start_values
from finetune_trainer.training.callbacks import ProgressReporter, history
from finetune_trainer.training.checkpoints import CheckpointStore, Found
from finetune_trainer.training.output import write_tuned
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.preference_trainer import ACCURACIES, MARGINS
from finetune_trainer.training.shared_base import SharedBase
from finetune_trainer.training.stage_trainer import STATE, StageTrainer
from finetune_trainer.training.upstream_noise import silenced

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Training:
    """One attempt, as its steps share it."""

    run: Run
    store: CheckpointStore
    preemption: Preemption
    trainer: StageTrainer
    reporter: ProgressReporter
    start: Found | None
    notes: list[str]
    """Sentences for the result's message."""


def execute(run: Run) -> StageResult:
    """Train as planned, or go on from the newest checkpoint; then write workspace.tuned. Several adapters are trained
    one after the other, and those that are finished are left alone.

    Raises StageError; PreemptedError when asked to stop, with a verified checkpoint where a step was done.
    """
    with preemption.watched() as watch, silenced():
        guards.require_planned_strategy(run.plan, run.environment)
        memory.reset_peak()
        parts = adapter_runs(run, [adapter.total_steps for adapter in run.plan.adapters])
        return _adapters_trained(run, parts, watch) if parts else _trained(run, watch)


def _adapters_trained(run: Run, parts: list[Run], watch: Preemption) -> StageResult:
    base = SharedBase(load_base)
    results: dict[str, StageResult] = {}
    for part in parts:
        name = part.workspace.adapter
        found = finished_before(part)
        if found is None:
            _log.info("adapter", adapter=name)
            with named(part):
                found = _trained(part, watch, base)
            confirm_attempt(run.workspace.root, run.request)
            store(part, found)
        else:
            _tell_again(part, found)
        results[name] = found
    return whole_training(run.plan, results)


def _tell_again(run: Run, found: StageResult) -> None:
    """Repeat the curve of an adapter that an earlier attempt has trained: this pod has not told it yet."""
    total = run.plan.training.total_steps
    for point in found.history:
        run.progress.update(total, total, point=point)
    run.progress.update(total, total, checkpoint=found.checkpoint)


def _trained(run: Run, watch: Preemption, base: SharedBase | None = None) -> StageResult:
    check_supported(run)
    training = _assemble(run, watch, base)
    _train(training)
    _keep_best(training)
    result = _finish(training)
    if base is not None:
        base.take_back(run, training.trainer.model)
    return result


def _assemble(run: Run, watch: Preemption, base: SharedBase | None) -> _Training:
    checkpoints = checkpoint_store(run)
    checkpoints.sweep()
    start = checkpoints.newest()
    notes = _notes_on_start(checkpoints, start)
    watch.leave_if_requested("nothing was trained yet in this attempt")
    trainer, reporter = build_trainer(run, checkpoints, watch, base.of if base is not None else load_base)
    watch.leave_if_requested("nothing was trained yet in this attempt")
    return _Training(run, checkpoints, watch, trainer, reporter, start, notes)


def _notes_on_start(store: CheckpointStore, start: Found | None) -> list[str]:
    refused = f"refused {'; '.join(store.refused[:3])}" if store.refused else ""
    if start is not None:
        notes = [f"went on from the checkpoint of step {start.manifest.step}", refused]
    elif refused:
        notes = ["started from the beginning, because no checkpoint is complete", refused]
    else:
        notes = []
    for note in filter(None, notes):
        _log.info(note)
    return [*filter(None, notes)]


def _train(training: _Training) -> None:
    """Train to the last step unless a checkpoint already stands there: another step would change a finished result."""
    start, trainer = training.start, training.trainer
    if start is not None:
        step, total = start.manifest.step, training.run.plan.training.total_steps
        training.run.progress.update(step, total, checkpoint=start.report)
        if start.manifest.finished:
            _restore_finished(trainer, start)
            trainer.make_up_for_evaluation()
            if trainer.owes_evaluation():
                training.preemption.leave_if_requested("the last step is trained, its evaluation is owed")
            return
    trainer.train(resume_from_checkpoint=str(start.path) if start else None)
    training.preemption.leave_if_requested(f"the checkpoint of step {trainer.state.global_step} is complete")


def _restore_finished(trainer: StageTrainer, found: Found) -> None:
    trainer._load_from_checkpoint(str(found.path))  # noqa: SLF001 - the half of resume that is wanted here
    trainer.state = TrainerState.load_from_json(str(found.path / STATE))


def _keep_best(training: _Training) -> None:
    """Put the weights of the best evaluation in place, when asked to and when they are not the last ones."""
    trainer = training.trainer
    best = trainer.state.best_global_step
    if not training.run.spec.training.load_best or not best or best == trainer.state.global_step:
        return
    found = training.store.verified(best)
    if found is None:
        reason = training.store.refused[-1]
        raise SourceNotFoundError(
            f"the best checkpoint, of step {best}, cannot be restored ({reason}); it is needed for training.loadBest. "
            f"Delete {training.store.root} to train again, or create the job with training.loadBest: false"
        )
    trainer.state.best_model_checkpoint = str(found.path)
    trainer._load_best_model()  # noqa: SLF001 - the Trainer's own, after our verification
    training.notes.append(f"kept the weights of step {best}, which had the lowest eval_loss")


def _finish(training: _Training) -> StageResult:
    run, trainer = training.run, training.trainer
    trainer.require_learning()
    summary = _summary(training)
    start = start_values(run)
    write_tuned(run.workspace.tuned, trainer.model, trainer.processing_class, run.plan.model, summary, start)
    metrics = _metrics(training)
    steps = f"trained {trainer.state.global_step} of {run.plan.training.total_steps} steps"
    return StageResult(
        stage=Stage.TRAIN,
        outcome="Succeeded",
        message="; ".join([steps, *training.notes])[:1024],
        metrics=metrics,
        history=history(trainer.state),
        checkpoint=_newest_report(training),
        plan=_measured(run.plan, metrics.peak_memory_bytes),
    )


def _summary(training: _Training) -> dict[str, Any]:
    state = training.trainer.state
    planned = training.run.plan.training.total_steps
    kept = state.best_global_step if training.run.spec.training.load_best else None
    return {
        "steps": state.global_step,
        "plannedSteps": planned,
        "keptStep": kept or state.global_step,
        "bestEvalLoss": _best_eval_loss(state),
    }


def _metrics(training: _Training) -> Metrics:
    """The last measurements; eval_loss is that of the weights that are kept."""
    metrics = training.reporter.metrics
    if metrics.loss is None:
        metrics = _logged(training.trainer.state)
    state = training.trainer.state
    updates: dict[str, Any] = {"peak_memory_bytes": memory.peak_bytes()}
    best = _best_eval_loss(state)
    if training.run.spec.training.load_best and best is not None:
        updates["eval_loss"] = best
    return metrics.model_copy(update=updates)


def _best_eval_loss(state: TrainerState) -> float | None:
    """eval_loss at the best step, whichever metric made it the best; None without an evaluation."""
    found = (entry for entry in state.log_history if entry["step"] == state.best_global_step and "eval_loss" in entry)
    return next((float(entry["eval_loss"]) for entry in found), None)


_LOGGED = {
    **{name: name for name in ("loss", "eval_loss", "learning_rate", "grad_norm")},
    MARGINS: "reward_margin",
    ACCURACIES: "reward_accuracy",
}
"""Names in the logs -> fields of Metrics."""


def _logged(state: TrainerState) -> Metrics:
    """Measurements of an earlier attempt, from the state that its checkpoint holds."""
    last: dict[str, float] = {}
    for entry in state.log_history:
        last.update({field: entry[name] for name, field in _LOGGED.items() if name in entry})
    return Metrics(**last)


def _newest_report(training: _Training) -> Checkpoint | None:
    found = training.store.newest()
    return found.report if found else None


def _measured(plan: Plan, peak: int | None) -> Plan:
    return plan.model_copy(update={"memory": plan.memory.model_copy(update={"measured_peak_bytes": peak})})
