"""Whether the tuned model is better by more than luck: a paired bootstrap over the held-out rows.

Both models answered the same rows, so rows are drawn in pairs, which removes what is merely hard about a row. Pure but
for a seeded generator; must not know where the numbers came from.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_ROWS = 10
"""With fewer rows no interval is given: resampling so few says nothing about other rows."""

Value = Callable[[np.ndarray], float]
"""Metric of summed statistics."""


@dataclass(frozen=True)
class Difference:
    """Tuned minus baseline, of one metric."""

    metric: str
    baseline: float
    tuned: float
    difference: float
    low: float | None
    """Lower end of the 95 % confidence interval of the difference; None with too few rows."""
    high: float | None
    """Upper end."""
    verdict: str
    """better, worse, or undecided when the interval contains 0 or is absent."""

    def to_json(self) -> dict[str, Any]:
        """As written into report.json."""
        return asdict(self)


def difference(
    metric: str, baseline: np.ndarray, tuned: np.ndarray, value: Value, *, higher_is_better: bool, seed: int
) -> Difference:
    """Compare two tables of statistics, float64 [rows, statistics], whose rows pair up."""
    before, after = value(baseline.sum(axis=0)), value(tuned.sum(axis=0))
    low: float | None = None
    high: float | None = None
    if len(tuned) >= FEWEST_ROWS:
        low, high = interval(baseline, tuned, value, seed)
    return Difference(metric, before, after, after - before, low, high, _verdict(low, high, higher_is_better))


def interval(baseline: np.ndarray, tuned: np.ndarray, value: Value, seed: int) -> tuple[float, float]:
    """Percentile interval of the difference over RESAMPLES draws of rows with replacement."""
    generator = np.random.default_rng(seed)
    rows = len(tuned)
    draws = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        # Row counts instead of row copies: one product with the table gives the resampled sums.
        counts = np.bincount(generator.integers(0, rows, rows), minlength=rows)
        draws[i] = value(counts @ tuned) - value(counts @ baseline)
    tail = 100 * (1 - CONFIDENCE) / 2
    return float(np.percentile(draws, tail)), float(np.percentile(draws, 100 - tail))


def _verdict(low: float | None, high: float | None, higher_is_better: bool) -> str:
    if low is None or high is None or low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) == higher_is_better else "worse"
