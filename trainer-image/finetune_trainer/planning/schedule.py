"""Steps: how many there are, and when something is logged, evaluated and saved. Pure."""

import math
from dataclasses import dataclass
from math import gcd

from finetune_api.spec import TrainingSpec
from finetune_trainer.errors import InvalidSpecError

DEFAULT_EPOCHS = 3.0
EVENTS_PER_RUN = 10
"""Evaluations, and checkpoints, of a run by default at most: often enough for a curve and a short way back."""
EVALUATION_SHARE = 0.1
"""Part of the training time that evaluations take by default at most."""
PASSES_PER_TRAINED_ROW = 3
"""A backward pass costs two forward passes; an evaluated row costs one."""
STOPPING_METRICS = {"eval_loss": "eval_loss", "perplexity": "eval_perplexity"}
"""What earlyStopping can watch -> its name in the logs. Both have their best value at the same step."""


@dataclass(frozen=True)
class Schedule:
    """Steps of one run; all counted in optimizer steps."""

    total_steps: int
    epochs: float
    warmup_steps: int
    """Fewer than all: the first of them has a learning rate of 0, and a run of one step must learn too. None with the
    scheduler constant, which knows no warm-up."""
    log_every: int
    eval_every: int
    """0 without held-out rows."""
    checkpoint_every: int


def scheduled(training: TrainingSpec, sequences: int, batch_size: int, eval_rows: int) -> Schedule:
    """The schedule over `sequences` rows (or packed sequences) in batches of `batch_size`, with `eval_rows` held out.

    Checkpoints fall on steps that are logged (logs come more often where the numbers do not divide), so nothing that
    is not finite is saved unseen.
    """
    per_epoch = math.ceil(sequences / batch_size)
    total = training.max_steps or max(1, math.ceil((training.epochs or DEFAULT_EPOCHS) * per_epoch))
    log_every = min(training.log_every, total)
    evaluations = _affordable_evaluations(total * batch_size, eval_rows)
    eval_every = _interval(training.eval_every, total, log_every, evaluations) if eval_rows else 0
    checkpoint_every = _interval(training.checkpoint_every, total, log_every, EVENTS_PER_RUN)
    return Schedule(
        total_steps=total,
        epochs=training.epochs or (DEFAULT_EPOCHS if training.max_steps is None else total / per_epoch),
        warmup_steps=min(round(training.warmup_ratio * total), total - 1) if training.scheduler != "constant" else 0,
        log_every=gcd(log_every, checkpoint_every),
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
    )


def require_watchable(training: TrainingSpec, eval_every: int) -> None:
    """Raises InvalidSpecError for an early stopping that has nothing to watch."""
    stopping = training.early_stopping
    if stopping and stopping.metric not in STOPPING_METRICS:
        raise InvalidSpecError(
            f"training.earlyStopping.metric must be one of {', '.join(STOPPING_METRICS)}, not {stopping.metric}"
        )
    if stopping and eval_every == 0:
        raise InvalidSpecError("training.earlyStopping needs held-out rows: set dataset.eval or dataset.evalFraction")


def _affordable_evaluations(trained_rows: int, eval_rows: int) -> int:
    budget = EVALUATION_SHARE * PASSES_PER_TRAINED_ROW * trained_rows
    return min(EVENTS_PER_RUN, max(1, int(budget / max(1, eval_rows))))


def _interval(asked: int | str, total: int, log_every: int, events: int) -> int:
    if isinstance(asked, int):
        return min(asked, total)
    return min(total, log_every * math.ceil(total / events / log_every))
