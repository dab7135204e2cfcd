"""Whether a difference is more than luck."""

import numpy as np
import pytest

from finetune_trainer.evaluating.comparing import FEWEST_ROWS, Difference, difference
from finetune_trainer.evaluating.measuring import perplexity
from finetune_trainer.evaluating.text_metrics import mean


def losses(values: np.ndarray, tokens: int = 4) -> np.ndarray:
    table: np.ndarray = np.column_stack([values * tokens, np.full(len(values), float(tokens))])
    return table


def compare(before: np.ndarray, after: np.ndarray, *, higher_is_better: bool = False) -> Difference:
    return difference("m", losses(before), losses(after), mean, higher_is_better=higher_is_better, seed=0)


def ends(found: Difference) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_a_clear_improvement_of_a_noisy_loss_is_better_because_rows_pair_up() -> None:
    hard = np.random.default_rng(0).normal(3, 2, 60)
    found = compare(hard, hard - 0.3 + np.random.default_rng(1).normal(0, 0.1, 60))
    assert found.verdict == "better"
    low, high = ends(found)
    assert low < -0.3 < high < 0
    assert found.difference == pytest.approx(-0.3, abs=0.05)


def test_a_higher_loss_is_worse_and_a_higher_score_is_better() -> None:
    values = np.linspace(1, 2, 30)
    assert compare(values, values + 0.5).verdict == "worse"
    assert compare(values, values + 0.5, higher_is_better=True).verdict == "better"


def test_noise_around_zero_is_undecided() -> None:
    noise = np.random.default_rng(2).normal(0, 1, 50)
    assert compare(np.full(50, 2.0), 2.0 + noise - noise.mean()).verdict == "undecided"


def test_few_rows_get_no_interval() -> None:
    rows = np.ones(FEWEST_ROWS - 1)
    found = compare(rows * 9, rows)
    assert (found.low, found.high, found.verdict) == (None, None, "undecided")
    assert found.difference == pytest.approx(-8)


def test_the_interval_covers_the_true_difference_in_about_95_of_100_experiments() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        rows = generator.normal(2, 1, 40)
        found = compare(rows, rows + generator.normal(-0.2, 0.5, 40))
        low, high = ends(found)
        covered += low <= -0.2 <= high
    assert 88 <= covered <= 100


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = np.random.default_rng(4).normal(2, 1, 20)
    assert compare(rows, rows * 0.9) == compare(rows, rows * 0.9)


def test_a_loss_counts_tokens_and_not_rows() -> None:
    table = np.array([[10.0, 10.0], [90.0, 30.0]])
    assert mean(table.sum(axis=0)) == 2.5


def test_a_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert perplexity(np.array([1000.0, 1.0])) == float("inf")
