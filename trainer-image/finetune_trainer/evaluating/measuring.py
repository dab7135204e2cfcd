"""Measures one model on the held-out rows: losses and answers as tables whose rows pair up between models.

Decides which passes over the rows the metrics need. Must not load models and must not judge.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.tasks import LOSS_METRICS
from finetune_trainer.evaluating.class_metrics import CLASS_METRICS
from finetune_trainer.evaluating.comparing import Value
from finetune_trainer.evaluating.generating import answer_limit, greedy_answers
from finetune_trainer.evaluating.losses import OnRows, row_losses
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.evaluating.text_metrics import TEXT_METRICS, Answer, TextMetric, mean


def perplexity(total: np.ndarray) -> float:
    """exp of the mean loss; infinite rather than an error where it overflows."""
    try:
        return math.exp(mean(total))
    except OverflowError:
        return math.inf


VALUES: dict[str, tuple[Value, bool]] = {
    "eval_loss": (mean, False),
    "perplexity": (perplexity, False),
    "accuracy": (mean, True),
    **{name: (metric.value, metric.higher_is_better) for name, metric in TEXT_METRICS.items()},
    **{name: (metric.value, True) for name, metric in CLASS_METRICS.items()},
}
"""By metric: its value of summed statistics, and whether higher is better. `f1` is that of classes."""


@dataclass(frozen=True)
class Task:
    """What is measured, the same for both models."""

    rows: Sequence[EvalRow]
    metrics: Sequence[str]
    tokenizer: PreTrainedTokenizerBase
    stops: Sequence[int]
    max_new_tokens: int
    answer_metrics: Mapping[str, TextMetric] = field(default_factory=lambda: TEXT_METRICS)
    """Metrics of generated answers: one name may mean something else in another task."""

    @property
    def answered(self) -> list[EvalRow]:
        """Rows whose answer is generated: those with a prompt and a reference, when a metric needs answers."""
        wanted = any(name in self.answer_metrics for name in self.metrics)
        return [row for row in self.rows if row.prompt_ids and row.reference] if wanted else []

    @property
    def passes(self) -> int:
        """Rows through the model, over all passes."""
        return len(self.rows) + len(self.answered)

    def notes(self, _row: EvalRow) -> dict[str, Any]:
        """What a sample of a row says besides."""
        return {}


@dataclass(frozen=True)
class Measurement:
    """What one model did on the rows."""

    tables: dict[str, np.ndarray]
    """By metric: statistics, float64 [rows, statistics]."""
    answers: list[Answer] = field(default_factory=list)
    """Answers to Task.answered."""
    judged: Mapping[str, tuple[Value, bool]] = field(default_factory=lambda: VALUES)
    """As VALUES, for the task that was measured."""

    @property
    def values(self) -> dict[str, float]:
        """By metric: its value over all rows."""
        return {name: self.judged[name][0](table.sum(axis=0)) for name, table in self.tables.items()}


def measure(model: PreTrainedModel, task: Task, on_rows: OnRows) -> Measurement:
    """Every metric of `task` on `model`; eval_loss and perplexity always."""
    losses = row_losses(model, task.rows, on_rows)
    tables = dict.fromkeys(LOSS_METRICS, losses)
    answered = task.answered
    if not answered:
        return Measurement(tables)
    limit = answer_limit(answered, task.tokenizer, task.max_new_tokens)
    answers = greedy_answers(model, task.tokenizer, answered, limit=limit, stops=task.stops, on_rows=on_rows)
    references = [row.reference for row in answered]
    metrics = {name: task.answer_metrics[name] for name in task.metrics if name in task.answer_metrics}
    tables |= {name: metric.table(answers, references) for name, metric in metrics.items()}
    values = {name: (metric.value, metric.higher_is_better) for name, metric in metrics.items()}
    return Measurement(tables, answers, {**VALUES, **values})
