"""Limits and measurements of the parity gate."""

import numpy as np
import pytest

from finetune_api.spec import ParityLimits
from finetune_api.status import Parity
from finetune_trainer.exporting.parity import DEFAULT_LIMITS, Comparison, greedy_gap, limits, violations

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 2, (50, 40)).astype(np.float32)
TARGETS = GENERATOR.integers(0, 40, 50)


def compared(export: np.ndarray, targets: np.ndarray = TARGETS) -> Comparison:
    comparison = Comparison()
    for start in range(0, 50, 17):
        part = slice(start, start + 17)
        comparison.add(LOGITS[part], export[part], targets[part])
    return comparison


def test_equal_logits_are_within_every_default_limit() -> None:
    for precision, bounds in DEFAULT_LIMITS.items():
        result = compared(LOGITS.copy()).result(bounds)
        assert result.passed, precision
        assert (result.max_abs, result.top1) == (0, 1)
        assert result.kl == pytest.approx(0)
        assert result.perplexity_ratio == pytest.approx(1)


def test_a_constant_added_to_all_logits_of_a_position_changes_no_probability() -> None:
    result = compared(LOGITS + 5).result(DEFAULT_LIMITS["int8"])
    assert result.kl == pytest.approx(0, abs=1e-6)
    assert result.max_abs == pytest.approx(5, abs=1e-5)
    assert result.passed


def test_kl_and_perplexity_are_the_textbook_values() -> None:
    export = LOGITS + GENERATOR.normal(0, 0.5, LOGITS.shape).astype(np.float32)
    result = compared(export).result(DEFAULT_LIMITS["int4"])
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    q = np.exp(export) / np.exp(export).sum(axis=1, keepdims=True)
    at = (np.arange(50), TARGETS)
    assert result.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-3)
    assert result.perplexity_ratio == pytest.approx(np.exp((np.log(p[at]) - np.log(q[at])).mean()), rel=1e-3)
    assert result.top1 == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())


def test_shuffled_logits_fail_every_precision() -> None:
    for precision, bounds in DEFAULT_LIMITS.items():
        assert not compared(LOGITS[:, ::-1].copy()).result(bounds).passed, precision


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_single_logit_that_is_not_a_number_fails_whatever_the_limits(bad: float) -> None:
    export = LOGITS.copy()
    export[30, 3] = bad
    loose = ParityLimits(max_abs=1e9, max_kl=1e9, min_top1=0, max_perplexity_ratio=1e9)
    assert not compared(export).result(loose).passed


def test_positions_without_a_known_next_token_leave_perplexity_out() -> None:
    result = compared(LOGITS + 0, np.full(50, -1)).result(DEFAULT_LIMITS["int4"])
    assert result.perplexity_ratio is None
    assert result.passed


def test_limits_of_the_job_replace_the_defaults_one_by_one() -> None:
    got = limits("int4", ParityLimits(max_kl=0.5))
    assert (got.max_kl, got.min_top1) == (0.5, DEFAULT_LIMITS["int4"].min_top1)
    assert limits("int8", None) == DEFAULT_LIMITS["int8"]


def test_a_violation_names_field_value_and_limit() -> None:
    measured = Parity(max_abs=0.5, kl=0.03, top1=0.8, perplexity_ratio=1.2, passed=False)
    assert violations(measured, ParityLimits(max_kl=0.02, min_top1=0.9)) == [
        "parity.maxKl: 0.03, the limit is 0.02",
        "parity.minTop1: 0.8, the limit is 0.9",
    ]


def test_the_gap_of_a_greedy_choice_is_its_distance_from_the_highest_logit() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    assert greedy_gap(logits, [1, 2]) == 0
    assert greedy_gap(logits, [2, 2]) == 1
    assert greedy_gap(logits, []) == 0
