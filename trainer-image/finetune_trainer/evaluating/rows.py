"""Which held-out rows are judged, and in which groups they go through the model.

Decides the sample and the order only. Must not touch the model. Rows keep their place in the file, so that results of
two models pair up row by row.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import load_from_disk

from finetune_trainer.errors import InvalidDataError

TOKENS_PER_BATCH = 4096
ROWS_PER_BATCH = 16


@dataclass(frozen=True)
class EvalRow:
    """One held-out row."""

    index: int
    """Place in the evaluation set, from 0."""
    input_ids: list[int]
    """Prompt and answer."""
    completion_mask: list[int]
    """1 where the token carries loss."""
    prompt_ids: list[int]
    """What the model is asked; empty where the row has no prompt."""
    reference: str
    """The right answer as text."""
    classes: list[int] = field(default_factory=list)
    """For a head: the right class at each token that carries loss."""
    other_ids: list[int] = field(default_factory=list)
    """Preferences: the prompt with the rejected answer; for single answers, with one that belongs to another prompt."""
    other_mask: list[int] = field(default_factory=list)
    """Preferences: 1 where the token of other_ids carries loss."""
    desirable: bool | None = None
    """Preferences: the verdict on a single answer."""

    @property
    def supervised(self) -> list[int]:
        """Positions whose token carries loss and has a token before it that predicts it."""
        return [i for i, carries in enumerate(self.completion_mask) if carries and i > 0]


def load_rows(path: Path, limit: int, seed: int) -> list[EvalRow]:
    """At most `limit` rows of the Arrow dataset at `path`: all of them, or a sample drawn with `seed`, in file order.

    A sample and not the head, because a given evaluation file may be sorted by label.
    Raises InvalidDataError when the folder is absent or holds no row.
    """
    if not path.is_dir():
        raise InvalidDataError(
            f"{path} is missing: there are no held-out rows. Set dataset.eval or dataset.evalFraction above 0"
        )
    dataset = load_from_disk(str(path))
    if not len(dataset):
        raise InvalidDataError(f"{path} holds no row. Give dataset.eval rows, or raise dataset.evalFraction")
    chosen: Sequence[int] = range(len(dataset))
    if len(dataset) > limit:
        chosen = sorted(random.Random(seed).sample(chosen, limit))  # noqa: S311 - a reproducible sample, no secret
    return [_row(index, dataset[index]) for index in chosen]


def _row(index: int, row: dict[str, Any]) -> EvalRow:
    return EvalRow(
        index=index,
        input_ids=list(row["input_ids"]),
        completion_mask=list(row["completion_mask"]),
        prompt_ids=list(row.get("prompt_ids") or ()),
        reference=row.get("reference") or "",
        classes=list(row.get("classes") or ()),
        other_ids=list(row.get("other_ids") or ()),
        other_mask=list(row.get("other_mask") or ()),
        desirable=row.get("desirable"),
    )


def batches(lengths: Sequence[int], tokens: int = TOKENS_PER_BATCH, rows: int = ROWS_PER_BATCH) -> Iterator[list[int]]:
    """Indices of rows grouped by length, longest first, so that a batch holds little padding and memory peaks at once.

    A batch has at most `rows` rows and, padded, at most `tokens` tokens; a longer row goes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batch[0]] if batch else 0
        if batch and (len(batch) == rows or longest * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
