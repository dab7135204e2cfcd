"""What an answer of task: extraction must be: a JSON object or list that, where there is dataset.schema, satisfies it.

Rows and generated answers are judged by the same check. Nothing is ever fetched for a schema, and no pattern of it can
hold the check up: patterns run under a time limit.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import (  # type: ignore[import-untyped]
    SchemaError,
    ValidationError,
    best_match,
)
from jsonschema.validators import extend  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from finetune_trainer.data.records import UnusableRowError, kind_of
from finetune_trainer.errors import InvalidSpecError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PATTERN_SECONDS = 0.25
"""Time that one pattern may take on one text."""
DEEPEST = 64
"""Levels of an answer: deeper ones would exhaust the stack of the check."""
_MESSAGE = 240
_ERRORS = 64
"""Errors of an answer that are compared to name one of them."""


class AnswerCheck:
    """Judges answers. Raises InvalidSpecError, naming the place, for a `schema` that cannot be used."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self._validator = None if schema is None else _validator(schema)

    def value(self, text: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """The JSON value of the answer `text`, called `name`. Raises UnusableRowError with the place of what is wrong.

        Raises InvalidSpecError for a pattern of the schema that does not come to an end.
        """
        found = parsed(text, name)
        if self._validator is not None:
            _require_valid(self._validator, found, name)
        return found


def parsed(text: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """The object or list in `text`, called `name`. Raises UnusableRowError with the place of what is no JSON."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise UnusableRowError(f"{name} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise UnusableRowError(f"{name} is not JSON: {error.msg} at character {error.pos + 1}") from error
    except ValueError as error:
        raise UnusableRowError(f"{name} is not JSON: {str(error).partition(';')[0]}") from error
    if not isinstance(value, dict | list):
        raise UnusableRowError(f"{name} is {kind_of(value)} as JSON; an answer is an object or a list")
    if _deeper(value, DEEPEST):
        raise UnusableRowError(f"{name} is nested too deeply: more than {DEEPEST} levels")
    return value


def with_text_answers(columns: dict[str, Any], name: str, *, turns: bool) -> dict[str, Any]:
    """`columns` with JSON text for an object or a list in column `name`; with `turns` a list stays.

    Raises UnusableRowError for values that JSON does not have.
    """
    answer = columns.get(name)
    if not isinstance(answer, dict | list) or (turns and isinstance(answer, list)):
        return columns
    try:
        return {**columns, name: json.dumps(answer, ensure_ascii=False, allow_nan=False)}
    except RecursionError:
        raise UnusableRowError(f"{name} is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise UnusableRowError(f"{name} cannot be written as JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _deeper(value: Any, levels: int) -> bool:  # noqa: ANN401 - any JSON value
    """Whether `value` has more than `levels` levels of objects and lists."""
    level: list[Any] = [value]
    for _ in range(levels):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, dict | list)]
    return bool(level)


def _members(value: Any) -> Iterable[Any]:  # noqa: ANN401 - an object or a list
    return value.values() if isinstance(value, dict) else value


def _require_valid(validator: Any, value: Any, name: str) -> None:  # noqa: ANN401 - jsonschema has no types
    try:
        error = best_match(islice(validator.iter_errors(value), _ERRORS))
    except TimeoutError as timeout:
        raise InvalidSpecError(
            f"dataset.schema: the pattern {str(timeout)!r} takes more than {PATTERN_SECONDS:g} s on {name}; "
            "write it without repetitions inside repetitions"
        ) from timeout
    except RecursionError:
        raise UnusableRowError(f"{name} cannot be checked: it, or dataset.schema, refers too deeply") from None
    if error is not None:
        raise UnusableRowError(f"{_place(name, error.absolute_path)}: {_short(error.message)}")


def _place(name: str, path: Iterable[str | int]) -> str:
    return name + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _short(message: str) -> str:
    return message if len(message) <= _MESSAGE else f"{message[: _MESSAGE // 2]} ... {message[-_MESSAGE // 2 :]}"


def _match(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:  # noqa: ANN401
    """Keyword `pattern` under a time limit, which the standard library's expressions do not have."""
    if not validator.is_type(instance, "string"):
        return
    try:
        found = regex.search(pattern, instance, timeout=PATTERN_SECONDS)
    except TimeoutError:
        raise TimeoutError(pattern) from None
    if found is None:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _match})


def _validator(schema: dict[str, Any]) -> Any:  # noqa: ANN401 - jsonschema has no types
    if schema.get("$schema", DIALECT).rstrip("#") != DIALECT:
        raise InvalidSpecError(
            f"dataset.schema.$schema: {schema['$schema']} is not {DIALECT}; rewrite it, or leave it out"
        )
    # A schema that names its dialect would be checked by the library's own validator, without the time limit.
    bare = {key: value for key, value in schema.items() if key != "$schema"}
    try:
        Draft202012Validator.check_schema(bare)
    except SchemaError as error:
        raise InvalidSpecError(f"{_place('dataset.schema', error.absolute_path)}: {_short(error.message)}") from error
    resource = DRAFT202012.create_resource(bare)
    registry: Registry[Any] = Registry().with_resource("", resource)  # it knows nothing else and fetches nothing
    for part in _parts(resource):
        _require_usable(part, registry)
    validator = _Validator(bare, registry=registry)
    _require_end(validator)
    return validator


def _parts(resource: "Resource[Any]") -> Iterator[dict[str, Any]]:
    """Every schema in a schema, itself first; values of const, enum and examples are none."""
    if isinstance(resource.contents, dict):
        yield resource.contents
        for inner in resource.contents.values():
            if isinstance(inner, dict) and "$schema" in inner:
                yield inner
        for part in resource.subresources():
            yield from _parts(part)


def _require_usable(part: dict[str, Any], registry: "Registry[Any]") -> None:
    for key in ("$schema", "$id", "patternProperties"):
        if key in part:
            raise InvalidSpecError(f"dataset.schema: {_REFUSED[key]}")
    for key in ("$ref", "$dynamicRef"):
        if key in part:
            _require_local(part[key], key, registry)
    if "pattern" in part:
        try:
            regex.compile(part["pattern"])
        except regex.error as error:
            raise InvalidSpecError(f"dataset.schema: pattern {part['pattern']!r}: {error}") from error


_REFUSED = {
    "$schema": "$schema stands in a part of it; one schema has one dialect: remove it",
    "$id": "$id gives a part of it an address of its own; remove it and refer with #/$defs/name",
    "patternProperties": "patternProperties is not taken, as its patterns cannot be limited in time; use properties, "
    "or propertyNames with a pattern and additionalProperties",
}


def _require_local(target: str, key: str, registry: "Registry[Any]") -> None:
    if not target.startswith("#"):
        raise InvalidSpecError(
            f"dataset.schema: {key} {target!r} is outside of the schema, and nothing is fetched; copy what it names "
            "into $defs and refer to it with #/$defs/name"
        )
    try:
        registry.resolver().lookup(target)
    except Unresolvable as error:
        raise InvalidSpecError(f"dataset.schema: {key} {target!r} names nothing in the schema") from error


def _require_end(validator: Any) -> None:  # noqa: ANN401 - jsonschema has no types
    """Raise InvalidSpecError for a schema that refers to itself without going into the answer."""
    samples: Sequence[Any] = ({}, [])
    try:
        for sample in samples:
            best_match(islice(validator.iter_errors(sample), _ERRORS))
    except RecursionError:
        raise InvalidSpecError(
            "dataset.schema refers to itself without end: a $ref leads back to its own place"
        ) from None
