"""What of a row the objective trains on: KTO takes the two answers of a pair one by one. Pure.

A row that is divided stays one row to everything before: its checks, its limit, and the side of the hold-out.
"""

from dataclasses import replace

from finetune_trainer.data.encoding import EncodedRow


def parts_of(row: EncodedRow, objective: str) -> list[EncodedRow]:
    """The rows that `objective` (training.objective) makes of `row`: itself as a rule."""
    if objective == "kto" and row.other is not None:
        return [replace(row, other=None, desirable=True), replace(row.other, desirable=False)]
    return [row]
