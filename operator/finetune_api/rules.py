"""Rules across fields, each stated once for both sides: as CEL for the API server and as a check for Python.

The API server enforces the CEL half at admission without any webhook; the Python half serves a run without Kubernetes.
A test holds both halves to the same verdicts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Rule:
    """One cross-field rule of the object that carries it."""

    cel: str
    """Over `self`, as the API server evaluates it."""
    message: str
    """Names the field and the way out."""
    holds: Callable[[Any], bool]
    """The same verdict in Python."""


class ApiModel(BaseModel):
    """Base of every object of the API: camelCase outside, closed, immutable, rules checked on creation."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """Rules of this object; subclasses override."""
        return ()

    @model_validator(mode="after")
    def _obey_rules(self) -> "ApiModel":
        for rule in self.rules():
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if rules := cls.rules():
            schema["x-kubernetes-validations"] = [{"rule": rule.cel, "message": rule.message} for rule in rules]
        return schema

    def to_json(self) -> dict[str, Any]:
        """As the API server stores it: camelCase, JSON types, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
