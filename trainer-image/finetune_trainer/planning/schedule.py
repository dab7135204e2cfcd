"""Steps: how many there are, and when something is logged, evaluated and saved. Pure."""

import math
from dataclasses import dataclass
from math import gcd

from finetune_api.spec import TrainingSpec

DEFAULT_EPOCHS = 3.0
EVENTS_PER_RUN = 10
"""Evaluations, and checkpoints, of a run by default: often enough for a curve and a short way back, and cheap."""


@dataclass(frozen=True)
class Schedule:
    """Steps of one run; all counted in optimizer steps."""

    total_steps: int
    epochs: float
    warmup_steps: int
    """Fewer than all: the first of them has a learning rate of 0, and a run of one step must learn too."""
    log_every: int
    eval_every: int
    """0 without held-out rows."""
    checkpoint_every: int


def scheduled(training: TrainingSpec, sequences: int, batch_size: int, *, evaluates: bool) -> Schedule:
    """The schedule over `sequences` rows (or packed sequences) in batches of `batch_size`.

    Checkpoints fall on steps that are logged (logs come more often where the numbers do not divide), so nothing that
    is not finite is saved unseen.
    """
    per_epoch = math.ceil(sequences / batch_size)
    total = training.max_steps or max(1, math.ceil((training.epochs or DEFAULT_EPOCHS) * per_epoch))
    log_every = min(training.log_every, total)
    eval_every = _interval(training.eval_every, total, log_every) if evaluates else 0
    checkpoint_every = _interval(training.checkpoint_every, total, log_every)
    return Schedule(
        total_steps=total,
        epochs=training.epochs or (DEFAULT_EPOCHS if training.max_steps is None else total / per_epoch),
        warmup_steps=min(round(training.warmup_ratio * total), total - 1),
        log_every=gcd(log_every, checkpoint_every),
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
    )


def _interval(asked: int | str, total: int, log_every: int) -> int:
    if isinstance(asked, int):
        return min(asked, total)
    return min(total, log_every * math.ceil(total / EVENTS_PER_RUN / log_every))
