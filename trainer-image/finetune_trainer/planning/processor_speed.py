"""How fast this processor multiplies matrices of a model's shapes."""

import time
from typing import TYPE_CHECKING

from finetune_trainer.models.inspection import ModelFacts
from finetune_trainer.planning.memory import Precision

if TYPE_CHECKING:
    import torch

ROWS = 512
"""Tokens of the product: about those of a micro batch on a CPU."""
REPEATS = 5
"""The fastest counts: others were disturbed."""


def operations_per_second(facts: ModelFacts, precision: Precision, threads: int) -> float:
    """Floating-point operations per second of a product [ROWS, hidden] x [hidden, intermediate] on so many threads."""
    import torch

    from finetune_trainer.models.load import DTYPES

    torch.set_num_threads(threads)
    left = torch.ones(ROWS, facts.hidden_size, dtype=DTYPES[precision])
    right = torch.ones(facts.hidden_size, facts.intermediate_size, dtype=DTYPES[precision])
    left @ right  # the first product prepares the library
    return 2.0 * ROWS * facts.hidden_size * facts.intermediate_size / min(_seconds(left, right) for _ in range(REPEATS))


def _seconds(left: "torch.Tensor", right: "torch.Tensor") -> float:
    began = time.perf_counter()
    left @ right
    return time.perf_counter() - began
