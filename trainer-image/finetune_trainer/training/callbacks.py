# ruff: noqa: ANN401, ARG002 - the signatures are those of transformers
"""What is said while a run goes on, and when it stops between two steps. Must not save or evaluate by itself."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.contract import thinned
from finetune_api.status import HISTORY_LIMIT, HistoryPoint, Metrics
from finetune_trainer.run import Run
from finetune_trainer.training import guards
from finetune_trainer.training.memory import peak_bytes
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.preference_trainer import ACCURACIES, MARGINS
from finetune_trainer.training.stage_trainer import StageTrainer


class ProgressReporter(TrainerCallback):
    """Tells run.progress the step after each step, and the measurements whenever something is logged."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.metrics = Metrics()
        self.trainer: StageTrainer | None = None
        self._busy_seconds = 0.0
        self._tokens = 0
        self._step_began = 0.0
        self._began = 0.0
        self._first_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Repeat the curve of earlier attempts: this pod has not told it yet."""
        self._began, self._first_step = time.monotonic(), state.global_step
        for point in history(state):
            self._run.progress.update(state.global_step, state.max_steps, epoch=state.epoch, point=point)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock of the step."""
        self._step_began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report the step and the time left, which counts evaluations and checkpoints as they have come so far."""
        now = time.monotonic()
        self._busy_seconds += now - self._step_began
        done = state.global_step - self._first_step
        left = (now - self._began) / done * (state.max_steps - state.global_step)
        self._run.progress.update(state.global_step, state.max_steps, epoch=state.epoch, seconds_left=round(left))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report what was measured since the last log."""
        logs = logs or {}
        if "loss" not in logs and "eval_loss" not in logs:
            return
        point = HistoryPoint(step=state.global_step, loss=logs.get("loss"), eval_loss=logs.get("eval_loss"))
        measured = self._measured(logs)
        self.metrics = self.metrics.model_copy(update=measured.model_dump(exclude_none=True))
        self._run.progress.update(
            state.global_step, state.max_steps, epoch=state.epoch, metrics=self.metrics, point=point
        )

    def _measured(self, logs: dict[str, float]) -> Metrics:
        return Metrics(
            loss=logs.get("loss"),
            eval_loss=logs.get("eval_loss"),
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens_per_second=self._tokens_per_second() if "loss" in logs else None,
            reward_margin=logs.get(MARGINS),
            reward_accuracy=logs.get(ACCURACIES),
            peak_memory_bytes=peak_bytes(),
        )

    def _tokens_per_second(self) -> float | None:
        if self.trainer is None or self._busy_seconds <= 0:
            return None
        tokens = self.trainer.real_tokens - self._tokens
        rate = tokens / self._busy_seconds
        self._tokens, self._busy_seconds = self.trainer.real_tokens, 0.0
        return rate


class StopOnPreemption(TrainerCallback):
    """Ends training between two steps once the pod is asked to stop: with a checkpoint, without another evaluation."""

    def __init__(self, preemption: Preemption) -> None:
        self._preemption = preemption

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save now and stop; an evaluation that is due is owed to the resumed run."""
        if self._preemption.requested:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Asked while saving: this checkpoint is the one to leave with."""
        if self._preemption.requested:
            control.should_training_stop = True


class StrategyGuard(TrainerCallback):
    """Looks, once everything is wrapped, whether what runs is what was planned."""

    trainer: StageTrainer | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Raises StrategyMismatchError."""
        guards.require_running_strategy(self.trainer)


class OwedEvaluation(TrainerCallback):
    """Makes up, on resume, for an evaluation that a preemption cut off."""

    trainer: StageTrainer | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate when the checkpoint owes it."""
        if self.trainer is not None:
            self.trainer.make_up_for_evaluation()


def history(state: TrainerState) -> list[HistoryPoint]:
    """The curves so far, one point a step, thinned evenly to what status can hold."""
    points: dict[int, HistoryPoint] = {}
    for entry in state.log_history:
        values = {name: entry[name] for name in ("loss", "eval_loss") if name in entry}
        if values:
            step = int(entry["step"])
            points[step] = points.get(step, HistoryPoint(step=step)).model_copy(update=values)
    return thinned([points[step] for step in sorted(points)], HISTORY_LIMIT)
