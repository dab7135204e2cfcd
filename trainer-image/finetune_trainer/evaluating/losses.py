"""Loss of a model on held-out rows, row by row, in memory that does not grow with rows or with the length of an answer.

Logits are made at supervised positions only, for a bounded number of positions at a time, and never kept. Must not
decide which rows are judged.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune_trainer.evaluating.rows import TOKENS_PER_BATCH, EvalRow, batches

OnRows = Callable[[int], None]

LOGITS_BYTES = 256 * 2**20
"""Most float32 logits held at once; a longer answer goes through the model again for its next positions."""


@torch.inference_mode()
def row_losses(
    model: PreTrainedModel,
    rows: Sequence[EvalRow],
    on_rows: Callable[[int], None] = lambda _: None,
    tokens: int = TOKENS_PER_BATCH,
) -> np.ndarray:
    """Summed negative log-likelihood in nats and number of supervised tokens of each row, as float64 [rows, 2].

    `on_rows` hears how many more rows are done; a batch has at most `tokens` tokens. Raises what the model raises.
    """
    table = np.zeros((len(rows), 2))
    for batch in batches([len(row.input_ids) for row in rows], tokens):
        table[batch] = _batch_losses(model, [rows[i] for i in batch])
        on_rows(len(batch))
    return table


def _batch_losses(model: PreTrainedModel, rows: list[EvalRow]) -> np.ndarray:
    input_ids, attention_mask, supervised = padded(rows, model.device)
    losses = torch.zeros(len(rows), dtype=torch.float64)
    # Logits at position i predict token i + 1.
    positions = supervised[:, 1:].any(dim=0).nonzero().flatten()
    for part in positions.split(_positions_at_once(model, len(rows))):
        logits = model(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=part, use_cache=False
        ).logits.float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, part + 1], reduction="none")
        losses += (nll.double() * supervised[:, part + 1]).sum(dim=1).cpu()
    return torch.stack([losses, supervised[:, 1:].sum(dim=1).double().cpu()], dim=1).numpy()


def padded(rows: list[EvalRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, attention_mask and supervised (bool), each [rows, longest], padded on the right."""
    shape = (len(rows), max(len(row.input_ids) for row in rows))
    input_ids, attention, supervised = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = torch.tensor(row.input_ids)
        attention[i, :length] = 1
        supervised[i, :length] = torch.tensor(row.completion_mask)
    return input_ids.to(device), attention.to(device), supervised.bool().to(device)


def _positions_at_once(model: PreTrainedModel, rows: int) -> int:
    return max(1, LOGITS_BYTES // (4 * rows * model.config.get_text_config().vocab_size))
