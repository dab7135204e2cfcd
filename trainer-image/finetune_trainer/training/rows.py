"""Rows of the workspace as batches: what is padded, what carries loss, in which order.

Labels are exactly completion_mask; nothing is tokenised, cut or dropped here. Must not know the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk

from finetune_trainer.data.storage import CLASSES
from finetune_trainer.errors import LearnedNothingError, SourceNotFoundError
from finetune_trainer.training.checkpoints import digest_of, file_sha256

IGNORED = -100
COLUMNS = ("input_ids", "completion_mask")
_POOL = 50
"""Batches among which rows are sorted by length: enough for little padding, few enough for a random order."""


def load_rows(folder: Path) -> Dataset:
    """The rows that prepare wrote, with what training reads of them. Raises SourceNotFoundError."""
    if not folder.is_dir():
        raise SourceNotFoundError(f"{folder} is missing: stage prepare must run first")
    rows = load_from_disk(str(folder))
    return rows.select_columns([*COLUMNS, *({CLASSES} & {*rows.column_names})])


def packed(rows: Dataset, max_length: int, cache: Path) -> Dataset:
    """`rows` put together, best fit first, into sequences of at most `max_length` tokens; adds seq_lengths."""
    from trl import pack_dataset

    cache.parent.mkdir(parents=True, exist_ok=True)
    # One batch of all rows: the plan counted sequences over the whole set.
    arguments = {"cache_file_name": str(cache), "load_from_cache_file": False, "batch_size": len(rows)}
    return pack_dataset(rows, max_length, "bfd", arguments)


def lengths_of(rows: Dataset) -> list[int]:
    """Tokens of each row."""
    batches = rows.with_format("numpy").select_columns(["input_ids"]).iter(batch_size=1000)
    return [len(ids) for batch in batches for ids in batch["input_ids"]]


def require_supervision(rows: Dataset) -> None:
    """Raises LearnedNothingError unless a token that is predicted carries loss."""
    for batch in rows.with_format("numpy").iter(batch_size=1000):
        if any(np.asarray(mask)[1:].any() for mask in batch["completion_mask"]):
            return
    raise LearnedNothingError(
        f"none of the {len(rows)} train rows has a token that carries loss: see dataset.lossOn, dataset.maxLength "
        "and the chat template"
    )


def supervised_counts(rows: Dataset, vocabulary: int) -> torch.Tensor:
    """How often each token carries loss in `rows`, int64 [vocabulary]. The first token of a row is never predicted."""
    counts: np.ndarray = np.zeros(vocabulary, dtype=np.int64)
    for batch in rows.with_format("numpy").select_columns([*COLUMNS]).iter(batch_size=1000):
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True):
            counts += np.bincount(np.asarray(ids)[1:][np.asarray(mask)[1:] == 1], minlength=vocabulary)
    return torch.from_numpy(counts)


def rows_digest(folder: Path) -> str:
    """sha256:<hex> over the stored rows. Raises OSError."""
    return digest_of([file_sha256(path) for path in sorted(folder.glob("*.arrow"))])


@dataclass(frozen=True)
class RowCollator:
    """Rows -> input_ids, labels (int64 [rows, longest]), real_tokens (int), attention_mask or, packed, position_ids.

    Padding is on the right. Packed rows carry position_ids that start again at each document and no attention_mask:
    from these transformers masks attention across documents, and the first token of a document carries no loss,
    because the token before it belongs to another one.
    """

    pad_token_id: int
    multiple: int = 1

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of at least one row."""
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), -(-longest // self.multiple) * self.multiple)
        is_packed = "seq_lengths" in rows[0]
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "labels": torch.full(shape, IGNORED),
            "position_ids" if is_packed else "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        for i, row in enumerate(rows):
            _fill(batch, i, row)
        real_tokens = sum(len(row["input_ids"]) for row in rows)
        return {**batch, "real_tokens": real_tokens}


def _fill(batch: dict[str, torch.Tensor], i: int, row: dict[str, Any]) -> None:
    ids = torch.as_tensor(np.asarray(row["input_ids"], dtype=np.int64))
    mask = torch.as_tensor(np.asarray(row["completion_mask"], dtype=np.bool_))
    batch["input_ids"][i, : len(ids)] = ids
    batch["labels"][i, : len(ids)] = torch.where(mask, ids, IGNORED)
    if "attention_mask" in batch:
        batch["attention_mask"][i, : len(ids)] = 1
        return
    positions = torch.cat([torch.arange(length) for length in row["seq_lengths"]])
    batch["position_ids"][i, : len(ids)] = positions
    batch["labels"][i, : len(ids)][positions == 0] = IGNORED


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """A random order, another in each epoch, in which the rows of one global batch have about the same length.

    transformers' own goes from long to short within each pool of batches and draws from the global generator, so a
    resumed epoch would see other rows; here batches are shuffled and the order follows from seed and epoch alone.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self._lengths))
        pool = self._batch_size * _POOL
        pools = (order[start : start + pool] for start in range(0, len(order), pool))
        sorted_rows = np.concatenate([sorted(rows, key=lambda i: -self._lengths[i]) for rows in pools])
        batches = [sorted_rows[i : i + self._batch_size] for i in range(0, len(order), self._batch_size)]
        # A short last batch stays last: elsewhere it would shift the bounds of every global batch after it.
        tail = [batches.pop()] if len(batches[-1]) < self._batch_size else []
        shuffled = [batches[i] for i in generator.permutation(len(batches))]
        return (int(i) for batch in [*shuffled, *tail] for i in batch)
