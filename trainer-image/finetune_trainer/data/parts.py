"""What of a row the objective trains on: KTO takes the answers of a pair one by one, pretraining long texts in blocks.

A row that is divided stays one row to everything before: its checks, its limit, and the side of the hold-out. Pure.
"""

from dataclasses import replace

from finetune_trainer.data.encoding import EncodedRow

BLOCK = 2048
"""Tokens of a block of text, unless dataset.maxLength says otherwise or the context is shorter: long enough for what
depends on each other in most texts, and a quarter of the memory that four times as many take."""


def parts_of(row: EncodedRow, objective: str, limit: int) -> list[EncodedRow]:
    """The rows that `objective` (training.objective) makes of `row`, itself as a rule; `limit` is in tokens."""
    if objective == "kto" and row.other is not None:
        return [replace(row, other=None, desirable=True), replace(row.other, desirable=False)]
    if objective == "pretrain" and row.length > limit:
        return _blocks(row, limit)
    return [row]


def _blocks(row: EncodedRow, limit: int) -> list[EncodedRow]:
    """`row` in blocks of `limit` tokens, each beginning with the last token of the one before, without loss on it.

    So every token but the first of the text is predicted once.
    """
    starts = range(0, row.length - 1, limit - 1)
    blocks = [replace(row, input_ids=row.input_ids[i : i + limit], mask=row.mask[i : i + limit]) for i in starts]
    return [blocks[0], *(replace(block, mask=[0, *block.mask[1:]]) for block in blocks[1:])]
