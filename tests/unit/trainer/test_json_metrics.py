"""Metrics of generated JSON, worked by hand."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.evaluating.comparing import difference
from finetune_trainer.evaluating.json_metrics import json_metrics
from finetune_trainer.evaluating.text_metrics import Answer

METRICS = json_metrics(None)
ORDER = '{"item": "tea", "count": 2}'


def value(
    name: str, text: str, reference: str, *, finished: bool = True, schema: dict[str, Any] | None = None
) -> float:
    return json_metrics(schema)[name]([Answer(text, finished=finished)], [reference])


@pytest.mark.parametrize(
    ("text", "reference", "want"),
    [
        (ORDER, ORDER, 1.0),
        ('{"count": 2.0, "item": " tea "}', ORDER, 1.0),
        ('{"item": "tea", "count": 3}', ORDER, 0.5),  # 1 of 2 and of 2
        ('{"item": "tea"}', ORDER, 2 / 3),  # 1 of 1 and of 2
        ('{"item": "tea", "count": "2"}', ORDER, 0.5),
        ('{"a": true}', '{"a": 1}', 0.0),
        ('{"a": null}', '{"a": 0}', 0.0),
        ('{"a": {}}', '{"a": []}', 0.0),
        ("{}", "{}", 1.0),
        ('{"a": ["y", "x"]}', '{"a": ["x", "y"]}', 1.0),
        ('{"a": ["x", "x"]}', '{"a": ["x", "y"]}', 0.5),
        ('[{"n": "a", "p": 2}, {"n": "b", "p": 1}]', '[{"n": "a", "p": 1}, {"n": "b", "p": 2}]', 0.5),
        ('{"[0]": 1}', "[1]", 0.0),
        ('{"a": {"b": 1}}', '{"a.b": 1}', 0.0),
        (f"```json\n{ORDER}\n```", ORDER, 0.0),
        ("tea", ORDER, 0.0),
    ],
)
def test_f1_is_that_of_fields(text: str, reference: str, want: float) -> None:
    assert value("f1", text, reference) == pytest.approx(want)


def test_f1_is_that_of_the_sum_over_rows() -> None:
    answers = [Answer('{"a": 1, "b": 2, "c": 3}', finished=True), Answer("no", finished=True)]
    assert METRICS["f1"](answers, ['{"a": 1, "b": 2, "c": 4}', '{"a": 1}']) == pytest.approx(2 * 2 / (3 + 4))


@pytest.mark.parametrize(
    ("text", "finished", "want"),
    [
        (ORDER, True, 1.0),
        ('{"count":2.0,\n"item":"tea"}', True, 1.0),
        (ORDER, False, 0.0),
        ('{"count": 2, "item": "tea "}', True, 0.0),
        ('{"count": true, "item": "tea"}', True, 0.0),
        ("not JSON", True, 0.0),
    ],
)
def test_exact_match_compares_values(text: str, finished: bool, want: float) -> None:
    assert value("exact-match", text, ORDER, finished=finished) == want


def test_exact_match_minds_the_order_of_lists_and_what_is_no_json_matches_nothing() -> None:
    assert value("exact-match", "[2, 1]", "[1, 2]") == 0.0
    assert value("exact-match", "no", "no") == 0.0


@pytest.mark.parametrize(
    ("text", "schema", "want"),
    [
        (ORDER, None, 1.0),
        ("5", None, 0.0),
        ("tea", None, 0.0),
        (f"Here: {ORDER}", None, 0.0),
        (ORDER, {"required": ["item"]}, 1.0),
        (ORDER, {"required": ["price"]}, 0.0),
        (json.dumps(["a" * 60 + "!"]), {"items": {"pattern": "^(a|aa)+$"}}, 0.0),
    ],
)
def test_valid_is_json_that_satisfies_the_schema(text: str, schema: dict[str, Any] | None, want: float) -> None:
    assert value("json-valid", text, ORDER, schema=schema) == want


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(JSON, max_size=3) | st.dictionaries(st.text(), JSON, max_size=3))
def test_an_answer_equal_to_its_reference_is_right_by_every_metric(reference: Any) -> None:
    text = json.dumps(reference)
    assert [value(name, json.dumps(reference, indent=1), text) for name in METRICS] == [1.0, 1.0, 1.0]


def test_the_bootstrap_takes_the_tables_of_all() -> None:
    good, bad = [Answer(ORDER, finished=True)] * 12, [Answer("no", finished=True)] * 12
    for name, metric in METRICS.items():
        before, after = (metric.table(answers, [ORDER] * 12) for answers in (bad, good))
        found = difference(name, before, after, metric.value, higher_is_better=True, seed=1)
        assert (found.baseline, found.tuned, found.verdict) == (0.0, 1.0, "better")
        assert np.isfinite([found.low, found.high]).all()
