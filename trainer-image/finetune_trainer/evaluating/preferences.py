"""Judges a model on preferences: the objective's own loss, and how often the wanted answer is the likelier one.

accuracy compares log-likelihoods per token: summed ones would call the shorter answer the better one, whatever it says,
and need no training to do so. It knows no reference, so base and tuned model are measured alike. Of KTO's single
answers each is compared with one of the other kind: to the same prompt where there is one, else the next in the file.

The loss needs the untouched model's likelihoods, which are those of the baseline: it is its own reference, so its loss
under dpo is log 2. Must not load models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune_trainer.evaluating.generating import answer_limit, greedy_answers
from finetune_trainer.evaluating.losses import OnRows, row_losses
from finetune_trainer.evaluating.measuring import Measurement, Task
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.evaluating.text_metrics import Answer
from finetune_trainer.planning.objectives import asks_reference
from finetune_trainer.training.preference_losses import Likelihoods, divergence_of, judge

SAMPLES = 10
"""Rows of which an answer is generated, for people to read."""


@dataclass(frozen=True)
class PreferenceTask(Task):
    """What is measured, the same for both models."""

    objective: str = "dpo"
    beta: float = 0.1

    @property
    def answered(self) -> list[EvalRow]:
        """Rows whose answer is generated."""
        return [row for row in self.rows if row.prompt_ids][:SAMPLES]

    @property
    def passes(self) -> int:
        """Rows through the model, over all passes."""
        return 2 * len(self.rows) + len(self.answered)

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the untouched model."""
        return asks_reference(self.objective)

    def notes(self, row: EvalRow) -> dict[str, Any]:
        """What a sample of `row` says besides."""
        if row.desirable is not None:
            return {"desirable": row.desirable}
        said = [token for token, carries in zip(row.other_ids, row.other_mask, strict=True) if carries]
        return {"rejected": self.tokenizer.decode(said, skip_special_tokens=True).strip()}


@dataclass(frozen=True)
class Opinion:
    """What one model thinks of the answers, and says itself."""

    likelihoods: np.ndarray
    """float64 [rows, 4]: summed log-likelihood and tokens of the answer, then of the other one."""
    answers: list[Answer]
    """Answers to Task.answered."""


def opinion(model: PreTrainedModel, task: PreferenceTask, on_rows: OnRows) -> Opinion:
    """Likelihoods of all rows under `model`, and its answers to some."""
    others = [replace(row, input_ids=row.other_ids, completion_mask=row.other_mask) for row in task.rows]
    tables = [row_losses(model, rows, on_rows) * (-1, 1) for rows in (task.rows, others)]
    answered, answers = task.answered, []
    if answered:
        limit = answer_limit(answered, task.tokenizer, task.max_new_tokens)
        answers = greedy_answers(model, task.tokenizer, answered, limit=limit, stops=task.stops, on_rows=on_rows)
    return Opinion(np.concatenate(tables, axis=1), answers)


def measurement(task: PreferenceTask, found: Opinion, reference: Opinion | None) -> Measurement:
    """eval_loss and accuracy of a model, each as statistics (sum, count) of a row; `reference` is the untouched one's.

    KTO's divergence is that over all rows, also in every resampling of them.
    """
    known = _likelihoods(task, found, reference)
    divergence = divergence_of(known.other_ratio) if task.objective == "kto" else None
    losses = judge(task.objective, known, task.beta, divergence).losses.numpy()
    tables = {"eval_loss": losses, "accuracy": _right(task.rows, found.likelihoods)}
    return Measurement(
        {name: np.stack([column, np.ones_like(column)], axis=1) for name, column in tables.items()}, found.answers
    )


def _likelihoods(task: PreferenceTask, found: Opinion, reference: Opinion | None) -> Likelihoods:
    answer, answer_tokens, other, other_tokens = torch.from_numpy(found.likelihoods).unbind(dim=1)
    desirable = torch.tensor([row.desirable for row in task.rows]) if task.objective == "kto" else None
    if not task.needs_reference or reference is None:
        return Likelihoods(answer, other, answer_tokens, other_tokens, desirable=desirable)
    first, _, second, _ = torch.from_numpy(reference.likelihoods).unbind(dim=1)
    return Likelihoods(answer, other, answer_tokens, other_tokens, first, second, desirable)


def _right(rows: Sequence[EvalRow], likelihoods: np.ndarray) -> np.ndarray:
    """1 for each row whose wanted answer is the likelier one per token, half for a tie, else 0; float64 [rows]."""
    answer, other = likelihoods[:, 0] / likelihoods[:, 1], likelihoods[:, 2] / likelihoods[:, 3]
    if rows[0].desirable is None:
        return np.heaviside(answer - other, 0.5)
    sign = np.array([1 if row.desirable else -1 for row in rows])
    return np.heaviside(sign * (answer - answer[opponents(rows)]), 0.5)


def opponents(rows: Sequence[EvalRow]) -> list[int]:
    """For each single answer the place of one of the other kind: to the same prompt if there is one, else the next.

    A row is its own opponent where all are of one kind, which is a tie.
    """
    places = {(row.desirable, *row.prompt_ids): place for place, row in reversed([*enumerate(rows)])}
    found = []
    for place, row in enumerate(rows):
        following = ((place + step) % len(rows) for step in range(1, len(rows)))
        same = places.get((not row.desirable, *row.prompt_ids))
        other = (other for other in following if rows[other].desirable != row.desirable)
        found.append(next(other, place) if same is None else same)
    return found
