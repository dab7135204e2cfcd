"""Rows of preferences as batches: two sequences a row, and what the untouched model thinks of them.

Must not compute likelihoods and must not know the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk

from finetune_trainer.errors import SourceNotFoundError
from finetune_trainer.training.rows import COLUMNS, RowCollator

SECOND = ("other_ids", "other_mask")
DESIRABLE = "desirable"
REFERENCE = "reference_likelihoods"


def load_preferences(folder: Path) -> Dataset:
    """The rows that prepare wrote, with both sequences and, where there is one, the verdict.

    Raises SourceNotFoundError.
    """
    if not folder.is_dir():
        raise SourceNotFoundError(f"{folder} is missing: stage prepare must run first")
    rows = load_from_disk(str(folder))
    return rows.select_columns([*COLUMNS, *SECOND, *(name for name in (DESIRABLE,) if name in rows.column_names)])


def with_reference(rows: Dataset, reference: np.ndarray) -> Dataset:
    """`rows` with the reference's log-likelihoods, float64 [rows, 2], of the answer and of the other one."""
    return rows.add_column(REFERENCE, reference.tolist())


def lengths_of_pairs(rows: Dataset) -> list[int]:
    """Tokens of the longer sequence of each row."""
    batches = rows.with_format("numpy").select_columns(["input_ids", SECOND[0]]).iter(batch_size=1000)
    return [max(map(len, pair)) for batch in batches for pair in zip(batch["input_ids"], batch[SECOND[0]], strict=True)]


@dataclass(frozen=True)
class PreferenceCollator:
    """Rows -> one batch: what a RowCollator makes of the answers and then the others, in one tensor each.

    Where others are `apart`, theirs stand under `other_input_ids` and so on. Besides: `rows` (their number),
    `reference` (float64 [rows, 2]), `desirable` (bool [rows]) and `real_tokens`, of what gradients flow through.
    """

    sequences: RowCollator
    apart: bool
    """Whether others are a batch of their own: for KTO no gradient flows through them."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of at least one row."""
        others = [dict(zip(COLUMNS, (row[name] for name in SECOND), strict=True)) for row in rows]
        batch: dict[str, Any] = {"rows": len(rows)}
        if self.apart:
            batch |= self.sequences(rows)
            batch |= {f"other_{name}": value for name, value in self.sequences(others).items()}
            del batch["other_real_tokens"]
        else:
            batch |= self.sequences([*rows, *others])
        if REFERENCE in rows[0]:
            batch["reference"] = torch.as_tensor(np.asarray([row[REFERENCE] for row in rows], dtype=np.float64))
        if DESIRABLE in rows[0]:
            batch[DESIRABLE] = torch.as_tensor(np.asarray([row[DESIRABLE] for row in rows], dtype=np.bool_))
        return batch


def sequences_of(rows: Dataset) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and mask of each sequence: of the first row its answer, then its other one, and so on."""
    for row in rows:
        yield row["input_ids"], row["completion_mask"]
        yield row[SECOND[0]], row[SECOND[1]]
