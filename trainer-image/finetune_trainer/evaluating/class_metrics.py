"""Metrics of classes, each as additive statistics of a row and a value of their sum, as text_metrics.py has them.

precision, recall and f1 are means over classes (macro): of every class that a row has or a model told, as scikit-learn
counts them. seqeval is the F1 of whole entities, type and bounds, summed over rows (micro), as the package of that name
computes it. Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.evaluating.comparing import Value
from finetune_trainer.evaluating.text_metrics import mean

Entity = tuple[str, int, int]
"""Type, and first and last word."""


@dataclass(frozen=True)
class ClassMetric:
    """One metric over pairs of told and right classes."""

    statistics: Callable[[Sequence[int], Sequence[int], Sequence[str]], Sequence[float] | np.ndarray]
    """Of told and right classes of one row, and the names of all classes; sums of rows are meaningful."""
    value: Value
    """Of the summed statistics."""

    def table(self, told: Sequence[Sequence[int]], right: Sequence[Sequence[int]], names: Sequence[str]) -> np.ndarray:
        """Statistics as float64 [rows, statistics]."""
        rows = zip(told, right, strict=True)
        return np.array([self.statistics(ours, theirs, names) for ours, theirs in rows], dtype=np.float64)


def _agreement(told: Sequence[int], right: Sequence[int], _names: Sequence[str]) -> Sequence[float]:
    return (float(sum(ours == theirs for ours, theirs in zip(told, right, strict=True))), float(len(right)))


def _by_class(told: Sequence[int], right: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """How often each class was told rightly, was told, and was right: one after the other."""
    size = len(names)
    ours, theirs = np.asarray(told), np.asarray(right)
    counted = [np.bincount(places, minlength=size) for places in (ours[ours == theirs], ours, theirs)]
    return np.concatenate(counted).astype(np.float64)


def _macro(share: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Value:
    """The mean over classes of what `share` gives as numerators and denominators; a share of nothing is 0."""

    def value(total: np.ndarray) -> float:
        hits, told, right = total.reshape(3, -1)
        occurring = (told + right) > 0
        above, below = share(hits[occurring], told[occurring], right[occurring])
        return float(np.divide(above, below, out=np.zeros(len(above)), where=below > 0).mean()) if len(above) else 0.0

    return value


def _entity_counts(told: Sequence[int], right: Sequence[int], names: Sequence[str]) -> Sequence[float]:
    ours, theirs = (set(entities([names[i] for i in tags])) for tags in (told, right))
    return (float(len(ours & theirs)), float(len(ours)), float(len(theirs)))


def entities(tags: Sequence[str]) -> list[Entity]:
    """Entities that BIO `tags` mark. An I- tag that continues none begins one, as in the CoNLL evaluation."""
    found: list[Entity] = []
    begun: tuple[str, int] | None = None
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        continues = prefix == "I" and begun is not None and begun[0] == kind
        if begun is not None and not continues:
            found.append((*begun, place - 1))
            begun = None
        if prefix in ("B", "I") and begun is None:
            begun = (kind, place)
    return found


def _entity_f1(total: np.ndarray) -> float:
    hits, told, right = total
    return float(2 * hits / (told + right)) if told + right else 0.0


CLASS_METRICS: dict[str, ClassMetric] = {
    "accuracy": ClassMetric(_agreement, mean),
    "f1": ClassMetric(_by_class, _macro(lambda hits, told, right: (2 * hits, told + right))),
    "precision": ClassMetric(_by_class, _macro(lambda hits, told, _right: (hits, told))),
    "recall": ClassMetric(_by_class, _macro(lambda hits, _told, right: (hits, right))),
    "seqeval": ClassMetric(_entity_counts, _entity_f1),
}
"""By name; all from 0 to 1, higher is better."""
