# ruff: noqa: ANN401 - the signatures are those of transformers
"""Stage train for a head of classes: batches whose labels are classes, and their loss.

A step minimises the mean over the classes told in the whole batch, of texts or of words, so gradients do not depend on
how it is cut. What a class is told by is in the rows. Must not decide when anything is due.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.errors import LearnedNothingError
from finetune_trainer.models.heads import class_logits, head_module
from finetune_trainer.training import guards
from finetune_trainer.training.rows import IGNORED, load_rows
from finetune_trainer.training.stage_trainer import StageTrainer
from finetune_trainer.training.token_losses import TokenLoss, plain


@dataclass(frozen=True)
class HeadCollator:
    """Rows -> input_ids, attention_mask and labels (the class where one is told, else IGNORED), and real_tokens (int).

    Each but the last is int64 [rows, longest], padded on the right.
    """

    pad_token_id: int
    multiple: int = 1

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of at least one row."""
        lengths = [len(row["input_ids"]) for row in rows]
        shape = (len(rows), -(-max(lengths) // self.multiple) * self.multiple)
        ids, labels = torch.full(shape, self.pad_token_id), torch.full(shape, IGNORED)
        attention = torch.zeros(shape, dtype=torch.long)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids[i, :length] = torch.as_tensor(np.asarray(row["input_ids"], dtype=np.int64))
            told = torch.as_tensor(np.asarray(row["completion_mask"], dtype=np.bool_))
            labels[i, :length][told] = torch.from_numpy(np.array(row["classes"], dtype=np.int64))
            attention[i, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": attention, "real_tokens": sum(lengths)}


class HeadTrainer(StageTrainer):
    """The trainer of a head and what is trained with it."""

    def __init__(self, *places: Any, **arguments: Any) -> None:
        super().__init__(*places, **arguments)
        self._head_start = guards.fingerprints_of(head_module(self.model))

    def _token_counts(self) -> torch.Tensor:
        """How often each class is told in the train rows, int64 [classes]."""
        counts = np.zeros(self.model.config.num_labels, dtype=np.int64)
        for batch in load_rows(self.run.workspace.train_rows).with_format("numpy").iter(batch_size=1000):
            counts += np.bincount(np.concatenate([*batch["classes"]]), minlength=len(counts))
        return torch.from_numpy(counts)

    def _nll(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._whole(model, inputs, plain)

    def _whole(self, _model: Any, inputs: dict[str, Any], of_tokens: TokenLoss) -> tuple[torch.Tensor, torch.Tensor]:
        told = inputs["labels"] != IGNORED
        with self.accelerator.autocast():  # it wraps the model's own forward, which is not called here
            logits = class_logits(self.model, inputs["input_ids"], inputs["attention_mask"], told)
        return of_tokens(logits, inputs["labels"][told]).sum(), told.sum()

    def require_learning(self) -> None:
        """Raises LearnedNothingError when the adapter, the model or the head is as it was at the start."""
        super().require_learning()
        if guards.fingerprints_of(head_module(self.model)) == self._head_start:
            raise LearnedNothingError(
                "the head is unchanged after training: raise training.learningRate or the number of steps"
            )
