"""Operations of a training and what follows from them, as tables. Pure."""

from dataclasses import replace
from typing import Any

import pytest

from builders import make_plan
from finetune_api.status import PlannedTraining
from finetune_trainer.models.inspection import LinearLayer, ModelFacts
from finetune_trainer.planning import duration
from finetune_trainer.planning.duration import START_SECONDS, Workload, operations, training_seconds, workload
from finetune_trainer.planning.memory import Adapter

LAYERS = tuple(LinearLayer(f"model.layers.{i}.mlp.up_proj", 100, 300) for i in range(4))
WEIGHTS = 4 * 100 * 300
FACTS = ModelFacts(
    architecture="LlamaForCausalLM",
    parameters=WEIGHTS + 1000 * 100,
    context_length=2048,
    hidden_size=100,
    intermediate_size=300,
    layers=4,
    vocabulary=1000,
    heads=1,
    query_width=100,
    key_value_width=100,
    caps_attention=False,
    linear_layers=LAYERS,
    module_elements={},
)
WORK = Workload(rows=10, tokens=50, evaluated_rows=0, supervised_share=0.0)
ATTENTION = 4 * 4 * 100 * 50 / 2
FORWARD = 50 * (2 * WEIGHTS + ATTENTION)
ADAPTER = Adapter(rank=8, layers=LAYERS, dropout=0.0)


def planned_training(**changed: Any) -> PlannedTraining:
    return make_plan().training.model_copy(update=changed)


def test_full_tuning_costs_three_forward_passes() -> None:
    assert operations(FACTS, None, planned_training(), WORK) == 10 * 3 * FORWARD


def test_a_frozen_weight_needs_no_gradient_of_its_own() -> None:
    own = 50 * 3 * 2 * ADAPTER.parameters
    assert operations(FACTS, ADAPTER, planned_training(), WORK) == 10 * (2 * FORWARD + own)


def test_recomputed_activations_cost_one_more_forward_pass() -> None:
    recomputed = planned_training(gradient_checkpointing=True)
    assert operations(FACTS, None, recomputed, WORK) == 10 * 4 * FORWARD


def test_the_head_of_words_counts_where_a_token_carries_loss() -> None:
    half = operations(FACTS, None, planned_training(), replace(WORK, supervised_share=0.5))
    assert half == 10 * 3 * (FORWARD + 50 * 2 * 0.5 * 1000 * 100)


def test_an_evaluated_row_costs_one_forward_pass() -> None:
    assert (
        operations(FACTS, None, planned_training(), replace(WORK, evaluated_rows=30)) == 10 * 3 * FORWARD + 30 * FORWARD
    )


@pytest.mark.parametrize(("objective", "sequences", "reference"), [("orpo", 2, 0), ("dpo", 2, 1), ("kto", 1, 1)])
def test_pairs_are_two_sequences_and_the_reference_is_asked_once(
    objective: str, sequences: int, reference: int
) -> None:
    planned = planned_training(objective=objective, epochs=4)
    assert operations(FACTS, None, planned, WORK) == sequences * 10 * (3 + reference / 4) * FORWARD


@pytest.mark.parametrize(
    ("planned", "want"),
    [
        ({"epochs": 3.0, "total_steps": 9, "eval_every": 3}, Workload(9.0, 20.0, 3 * 7, 0.5)),
        ({"epochs": 0.5, "total_steps": 2, "eval_every": 0}, Workload(1.5, 20.0, 0, 0.5)),
    ],
)
def test_the_work_is_rows_over_all_epochs_and_evaluations(planned: dict[str, Any], want: Workload) -> None:
    assert workload(planned_training(**planned), [10, 20, 30], 7, 0.5) == want


def test_seconds_are_operations_over_speed_and_a_start() -> None:
    twice = 2 * operations(FACTS, None, planned_training(), WORK)
    speed = twice / duration.EFFICIENCY / 100
    assert training_seconds(FACTS, None, planned_training(), WORK, speed) == START_SECONDS + 50
