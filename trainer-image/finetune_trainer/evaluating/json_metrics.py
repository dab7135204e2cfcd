"""Metrics of generated JSON, each as additive statistics of a row and a value of their sum, as in text_metrics.py.

An answer is judged as a program would read it: the whole text must be one JSON value, and words around it, or a fence,
make it none. What is no JSON has no fields. Pure.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np

from finetune_trainer.data.json_answers import AnswerCheck, parsed
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.evaluating.text_metrics import Answer, TextMetric, mean

Path = tuple[str | int | None, ...]
Leaf = tuple[Path, Hashable]


def json_metrics(schema: dict[str, Any] | None) -> Mapping[str, TextMetric]:
    """Metrics of task: extraction by name; `schema` is dataset.schema. All from 0 to 1."""
    return {
        "exact-match": TextMetric(_same, mean),
        "json-valid": TextMetric(_valid(AnswerCheck(schema)), mean),
        "f1": TextMetric(_field_counts, _micro_f1),
    }


def leaves(value: Any) -> Iterator[Leaf]:  # noqa: ANN401 - any JSON value
    """Path and value of everything in `value` that holds nothing else.

    Objects and lists in a list are told apart by their position, so that fields stay with their object. Of anything
    else in a list the position does not count. An empty object or list is a leaf itself.
    """
    return _leaves(value, ())


def _leaves(value: Any, path: Path) -> Iterator[Leaf]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, place if isinstance(inner, dict | list) else None))
    else:
        yield path, _scalar(value.strip() if isinstance(value, str) else value)


def _scalar(value: Any) -> Hashable:  # noqa: ANN401 - any JSON value without members
    """`value` with its JSON type: to Python true is 1, to JSON it is not. 1 and 1.0 are one number."""
    if isinstance(value, dict | list):
        return type(value).__name__, ()
    return "number" if isinstance(value, float) else _KINDS[type(value)], value


_KINDS = {bool: "boolean", int: "number", str: "text", type(None): "null"}


def _whole(value: Any) -> Hashable:  # noqa: ANN401 - any JSON value
    """`value` so that two are equal when they are the same JSON: the order of keys says nothing, that of lists does."""
    if isinstance(value, dict):
        return "object", frozenset((key, _whole(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "list", tuple(map(_whole, value))
    return _scalar(value)


def _read(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """The object or list in `text`; None when it is none."""
    try:
        return parsed(text, "answer")
    except UnusableRowError:
        return None


def _same(answer: Answer, reference: str) -> tuple[float, ...]:
    got, want = _read(answer.text), _read(reference)
    return (float(answer.finished and got is not None and _whole(got) == _whole(want)), 1.0)


def _valid(check: AnswerCheck) -> Callable[[Answer, str], tuple[float, ...]]:
    def statistics(answer: Answer, _reference: str) -> tuple[float, ...]:
        try:
            check.value(answer.text, "answer")
        except (UnusableRowError, InvalidSpecError):  # the latter: a pattern that came to no end on these words
            return (0.0, 1.0)
        return (1.0, 1.0)

    return statistics


def _field_counts(answer: Answer, reference: str) -> tuple[float, ...]:
    """Fields that both have, that the answer has, and that the reference has."""
    got, want = (Counter(() if value is None else leaves(value)) for value in map(_read, (answer.text, reference)))
    return (float((got & want).total()), float(got.total()), float(want.total()))


def _micro_f1(total: np.ndarray) -> float:
    hits, got, want = total
    return float(2 * hits / (got + want)) if got + want else 0.0
