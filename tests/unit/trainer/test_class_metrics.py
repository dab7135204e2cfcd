"""Metrics of classes against the packages that define them, and by hand where they are silent."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1  # type: ignore[import-untyped]
from sklearn.metrics import precision_recall_fscore_support  # type: ignore[import-untyped]

from finetune_trainer.evaluating.class_metrics import CLASS_METRICS, entities
from finetune_trainer.evaluating.comparing import difference

NAMES = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)
ROWS = st.lists(PAIRS, min_size=1, max_size=6)


def value(name: str, told: list[list[int]], right: list[list[int]]) -> float:
    metric = CLASS_METRICS[name]
    return metric.value(metric.table(told, right, NAMES).sum(axis=0))


@given(ROWS)
@pytest.mark.filterwarnings("ignore")
def test_values_are_those_of_scikit_learn_and_seqeval(rows: list[list[tuple[int, int]]]) -> None:
    told, right = [[a for a, _ in row] for row in rows], [[b for _, b in row] for row in rows]
    flat: Any = ([b for row in right for b in row], [a for row in told for a in row])
    precision, recall, f1, _ = precision_recall_fscore_support(*flat, average="macro", zero_division=0)
    got = [value(name, told, right) for name in ("precision", "recall", "f1")]
    assert got == pytest.approx([precision, recall, f1])
    tags = [[[NAMES[i] for i in row] for row in rows] for rows in (right, told)]
    assert value("seqeval", told, right) == pytest.approx(seqeval_f1(*tags))


def test_accuracy_is_over_words_and_not_over_rows() -> None:
    assert value("accuracy", [[0], [4, 4, 4]], [[1], [4, 4, 4]]) == 0.75


@pytest.mark.parametrize(
    ("tags", "want"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
        ("O O", []),
        ("B-news-paper I-news-paper", [("news-paper", 0, 1)]),
    ],
)
def test_entities_begin_and_end_as_the_tags_say(tags: str, want: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == want


def test_one_resampling_of_rows_serves_every_metric() -> None:
    chosen = np.random.default_rng(1)
    right = [chosen.integers(0, 5, 6).tolist() for _ in range(40)]
    worse = [chosen.integers(0, 5, 6).tolist() for _ in range(40)]
    for name, metric in CLASS_METRICS.items():
        tables = [metric.table(told, right, NAMES) for told in (worse, right)]
        found = difference(name, *tables, metric.value, higher_is_better=True, seed=1)
        assert (found.tuned, found.verdict) == (1.0, "better")
