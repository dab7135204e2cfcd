"""Metrics of generated answers, each as additive statistics of a row and a value of their sum.

Being additive, one resampling of rows serves every metric, corpus metrics included. ROUGE is written here because the
usual package drops every letter outside a-z and is no longer maintained; BLEU is sacrebleu's. Must not load a model.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics.bleu import BLEU

_SEGMENT = BLEU(effective_order=True)  # of a row only counts are read; this spares a warning for each
_SMOOTHING = "exp"
_ORDERS = 4


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    text: str
    """Without special tokens."""
    finished: bool
    """Whether the model ended it, rather than the limit of tokens."""


@dataclass(frozen=True)
class TextMetric:
    """One metric over pairs of answer and reference."""

    statistics: Callable[[Answer, str], tuple[float, ...]]
    """Of one row; sums of rows are meaningful."""
    value: Callable[[np.ndarray], float]
    """Of the summed statistics."""
    higher_is_better: bool = True

    def __call__(self, answers: Sequence[Answer], references: Sequence[str]) -> float:
        """Value over all rows."""
        return self.value(self.table(answers, references).sum(axis=0))

    def table(self, answers: Sequence[Answer], references: Sequence[str]) -> np.ndarray:
        """Statistics as float64 [rows, statistics]."""
        return np.array([self.statistics(a, r) for a, r in zip(answers, references, strict=True)], dtype=np.float64)


def mean(total: np.ndarray) -> float:
    """Value of the statistics (sum, count)."""
    return float(total[0] / total[1]) if total[1] else 0.0


def words(text: str) -> list[str]:
    """Case-folded words of any script: runs of letters, digits and combining marks."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def exact_match(answer: Answer, reference: str) -> tuple[float, ...]:
    """1 when the model ended its answer and it equals the reference but for surrounding white space."""
    return (float(answer.finished and answer.text.strip() == reference.strip()), 1.0)


def _rouge_n(order: int) -> Callable[[Answer, str], tuple[float, ...]]:
    def statistics(answer: Answer, reference: str) -> tuple[float, ...]:
        got, want = _ngrams(words(answer.text), order), _ngrams(words(reference), order)
        return (_f1((got & want).total(), got.total(), want.total()), 1.0)

    return statistics


def _rouge_l(answer: Answer, reference: str) -> tuple[float, ...]:
    got, want = words(answer.text), words(reference)
    return (_f1(_common_subsequence(got, want), len(got), len(want)), 1.0)


def _ngrams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(order)), strict=False))


def _f1(common: int, got: int, want: int) -> float:
    return 2 * common / (got + want) if common else 0.0


def _common_subsequence(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for a in left:
        above_left = 0
        for j, b in enumerate(right, 1):
            above = row[j]
            row[j] = above_left + 1 if a == b else max(above, row[j - 1])
            above_left = above
    return row[-1]


def _bleu_statistics(answer: Answer, reference: str) -> tuple[float, ...]:
    score = _SEGMENT.sentence_score(answer.text, [reference])
    return (*score.counts, *score.totals, score.sys_len, score.ref_len)


def _bleu(total: np.ndarray) -> float:
    counts = [int(x) for x in total]
    score = BLEU.compute_bleu(
        counts[:_ORDERS], counts[_ORDERS : 2 * _ORDERS], counts[-2], counts[-1], smooth_method=_SMOOTHING
    )
    return float(score.score)


TEXT_METRICS: dict[str, TextMetric] = {
    "exact-match": TextMetric(exact_match, mean),
    "rouge1": TextMetric(_rouge_n(1), mean),
    "rouge2": TextMetric(_rouge_n(2), mean),
    "rougeL": TextMetric(_rouge_l, mean),
    "bleu": TextMetric(_bleu_statistics, _bleu),
}
"""Metrics of generated answers by name. ROUGE is F1 from 0 to 1, averaged over rows; BLEU is the corpus', 0 to 100."""
