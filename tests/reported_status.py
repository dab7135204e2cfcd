"""A status in which every field is set, made from the schema so that a new field is in it at once."""

from collections.abc import Callable
from typing import Any

from finetune_api.schema import structural
from finetune_api.status import FineTuneJobStatus

_TIME = "2026-11-21T12:00:00Z"
_TEXT = "15"
"""Text, a decimal and a name at once."""


def full_status() -> FineTuneJobStatus:
    """Every field set, lists with one entry."""
    return FineTuneJobStatus.model_validate(_sample(structural(FineTuneJobStatus, defaults=False)))


def _sample(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    samples: dict[str, Callable[[dict[str, Any]], Any]] = {
        "object": _object,
        "array": lambda each: [_sample(each["items"])],
        "string": _text,
        "integer": lambda each: each.get("minimum", 0) + 7,
        "number": lambda each: each.get("minimum", 0) + 0.5,
        "boolean": lambda _: True,
    }
    return samples[schema["type"]](schema)


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    if "properties" in schema:
        return {name: _sample(field) for name, field in schema["properties"].items()}
    return {"f1": _sample(schema["additionalProperties"])}


def _text(schema: dict[str, Any]) -> str:
    if schema.get("format") == "date-time":
        return _TIME
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", ())]
    return "auto" if any("auto|" in rule for rule in rules) else _TEXT
