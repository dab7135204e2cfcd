"""How long training takes, before anything is loaded: operations from shapes, over the speed of the processor. Pure.

    forward    2 operations for each weight and token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), and for each
               pair of a token and an earlier one 4 for each channel of the queries; the head of words at the positions
               that carry loss only
    backward   as much for the gradients of what came in, and as much again for those of what is trained
    recomputed one more forward pass

Must not look at the machine: how fast it multiplies is measured elsewhere (processor_speed.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.status import PlannedTraining
from finetune_trainer.models.inspection import ModelFacts
from finetune_trainer.planning.memory import Adapter
from finetune_trainer.planning.objectives import asks_reference, sequences_of_a_row

START_SECONDS = 25
"""Importing, loading, and saving at the end."""
EFFICIENCY = 0.5
"""Speed of a training step in terms of a lone matrix product of the model's shapes (docs/benchmarks/training.md)."""


@dataclass(frozen=True)
class Workload:
    """What a run computes on."""

    rows: float
    """Rows that training reads over all epochs."""
    tokens: float
    """Tokens of a row in the mean."""
    evaluated_rows: float
    """Held-out rows that are evaluated, over all evaluations."""
    supervised_share: float
    """Largest part of the tokens that carries loss, from 0 to 1."""


def workload(training: PlannedTraining, lengths: Sequence[int], eval_rows: int, share: float) -> Workload:
    """Of a planned training on rows of these lengths, of which a share of the tokens carries loss."""
    evaluations = training.total_steps // training.eval_every if training.eval_every else 0
    return Workload(
        rows=training.epochs * len(lengths),
        tokens=sum(lengths) / len(lengths),
        evaluated_rows=evaluations * eval_rows,
        supervised_share=share,
    )


def training_seconds(
    facts: ModelFacts, adapter: Adapter | None, training: PlannedTraining, work: Workload, speed: float
) -> int:
    """Seconds of stage train at `speed` operations per second; `adapter` is None for full tuning."""
    return START_SECONDS + round(operations(facts, adapter, training, work) / (EFFICIENCY * speed))


def operations(facts: ModelFacts, adapter: Adapter | None, training: PlannedTraining, work: Workload) -> float:
    """Floating-point operations of the whole training, evaluations included."""
    forward = work.tokens * _of_token(facts, work)
    passes = 2.0 + training.gradient_checkpointing + asks_reference(training.objective) / training.epochs
    trained = forward if adapter is None else work.tokens * 3 * 2 * adapter.parameters
    sequences = sequences_of_a_row(training.objective)
    return sequences * (work.rows * (passes * forward + trained) + work.evaluated_rows * forward)


def _of_token(facts: ModelFacts, work: Workload) -> float:
    """Operations of a token in a forward pass."""
    weights = sum(layer.inputs * layer.outputs for layer in facts.linear_layers)
    head = work.supervised_share * facts.vocabulary * facts.hidden_size
    attention = facts.layers * facts.query_width * work.tokens / 2  # of each pair the later token sees the earlier one
    return 2 * (weights + head) + 4 * attention
