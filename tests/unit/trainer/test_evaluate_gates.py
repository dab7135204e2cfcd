"""The bars of an evaluation."""

import pytest

from finetune_api.spec import Gate
from finetune_trainer.evaluating.gates import judge, unmet

TUNED = {"exact-match": 0.9, "eval_loss": 1.0}
BASELINE = {"exact-match": 0.5, "eval_loss": 2.0}


@pytest.mark.parametrize(
    ("gate", "want_required", "want_got", "want_passed"),
    [
        (Gate(metric="exact-match", at_least=0.9), "at least 0.9", 0.9, True),
        (Gate(metric="exact-match", at_least=0.91), "at least 0.91", 0.9, False),
        (Gate(metric="eval_loss", at_most=1.0), "at most 1", 1.0, True),
        (Gate(metric="eval_loss", at_most=0.5), "at most 0.5", 1.0, False),
        (Gate(metric="eval_loss", improves_baseline_by=1.0), "at least 1 better than the baseline", 1.0, True),
        (Gate(metric="eval_loss", improves_baseline_by=1.1), "at least 1.1 better than the baseline", 1.0, False),
        (Gate(metric="exact-match", improves_baseline_by=0.3), "at least 0.3 better than the baseline", 0.4, True),
        (Gate(metric="rouge1", at_least=0.1), "at least 0.1", None, False),
    ],
)
def test_a_gate_is_judged_in_the_metrics_own_direction(
    gate: Gate, want_required: str, want_got: float | None, want_passed: bool
) -> None:
    (result,) = judge([gate], TUNED, BASELINE)
    assert (result.required, result.passed) == (want_required, want_passed)
    assert result.got == pytest.approx(want_got)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_clears_no_gate(value: float) -> None:
    gates = [Gate(metric="eval_loss", at_most=9), Gate(metric="eval_loss", at_least=-9)]
    assert [r.passed for r in judge(gates, {"eval_loss": value}, {})] == [False, False]


def test_an_improvement_without_baseline_is_not_met() -> None:
    assert not judge([Gate(metric="eval_loss", improves_baseline_by=0.1)], TUNED, {})[0].passed


def test_unmet_gates_are_named_with_bar_and_value() -> None:
    gates = [
        Gate(metric="exact-match", at_least=0.95),
        Gate(metric="eval_loss", at_most=3),
        Gate(metric="bleu", at_least=1),
    ]
    want = "exact-match must be at least 0.95, got 0.9; bleu must be at least 1, got no number"
    assert unmet(judge(gates, TUNED, BASELINE)) == want
