"""Value types shared by spec and status: what a name, a source, an automatic value and a decimal may look like."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Auto = Literal["auto"]

Text = Annotated[str, Field(max_length=1024)]
LongText = Annotated[str, Field(max_length=32768)]


@dataclass(frozen=True)
class Matching:
    """Metadata of a text that matches `pattern` as a whole; `message` tells a person what to write instead."""

    pattern: str
    message: str
    max_length: int

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        """A bounded string, checked as the API server checks it."""
        text = core_schema.str_schema(max_length=self.max_length)
        return core_schema.no_info_after_validator_function(self._check, text)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The same check as CEL, because a pattern alone would not say what to write."""
        rule = {"rule": f"self.matches(r'^({self.pattern})$')", "message": self.message}
        return handler(schema) | {"x-kubernetes-validations": [rule]}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"{self.message}; found {value!r}")
        return value


_NAME = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_NAME_MESSAGE = "must be the name of an object, without a namespace: lower-case letters, digits, '-' and '.'"

LocalName = Annotated[str, Matching(_NAME, _NAME_MESSAGE, 253)]
"""Name of an object in the job's own namespace."""

OptionalName = Annotated[str, Matching(f"({_NAME})?", f"{_NAME_MESSAGE}; or empty", 253)]
"""The same, or nothing."""

_LABEL_PART = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
LABEL_KEY = f"({_NAME}/)?{_LABEL_PART}"
"""Pattern of the key of a node label or a taint."""

LabelValue = Annotated[
    str, Matching(f"({_LABEL_PART})?", "must be a label value: letters, digits, '-', '_' and '.', or empty", 63)
]
"""Value of a node label or a taint."""

Label = Annotated[
    str, Matching("[a-z0-9]([-a-z0-9]*[a-z0-9])?", "must be lower-case letters, digits and '-', as in cpu-int4", 63)
]
"""A DNS label."""

Amount = Annotated[str, Matching(r"[0-9]+(\.[0-9]+)?", 'must be a decimal number in quotes, as in "2.50"', 16)]
"""Money without its currency."""

_SHAPES = {
    "hf": "hf://org/name",
    "pvc": "pvc://claim/path",
    "s3": "s3://bucket/key",
    "gs": "gs://bucket/key",
    "az": "az://container/path",
    "oci": "oci://registry/name",
    "job": "job://name",
}
_OBJECT_SCHEMES = ("pvc", "job")
_SEGMENT = "[A-Za-z0-9_][A-Za-z0-9._~+=:,-]*"


def uri_of(field: str, *schemes: str) -> Matching:
    """Metadata of a reference: one of `schemes` and a path that cannot leave it (no `..`, no empty part)."""
    shapes = ", ".join(_SHAPES[scheme] for scheme in schemes)
    heads = "|".join(f"{scheme}://{_NAME if scheme in _OBJECT_SCHEMES else _SEGMENT}" for scheme in schemes)
    return Matching(
        f"({heads})(/{_SEGMENT})*/?",
        f"{field} must look like {shapes}; '..', empty parts and spaces are refused",
        512,
    )


def keyed_by(name: str) -> Any:
    """Makes a list of objects a map keyed by one of their fields, as server-side apply merges it."""
    return Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [name]})


def _int_or_auto(value: Any) -> Any:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value


IntOrAuto = Annotated[
    Annotated[int, Field(ge=1, strict=True)] | Auto,
    BeforeValidator(_int_or_auto),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 16,
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) == int ? self >= 1 : self.matches('^(auto|[1-9][0-9]*)$')",
                    "message": "must be a whole number of at least 1, or auto",
                }
            ],
        }
    ),
]
"""A positive whole number, or `auto`: resolved before training and reported in status.plan."""


BoolOrAuto = Annotated[
    Annotated[bool, Field(strict=True)] | Auto,
    WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True, "enum": [True, False, "auto"]}),
]
"""true, false or `auto`. A structural schema has no such union, so the type is open there and the values are listed."""

_NUMBER = r"(0*[1-9][0-9]*\.?[0-9]*|0*\.0*[1-9][0-9]*)([eE][-+]?[0-9]{1,3})?"


def _number_or_auto(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        if not re.fullmatch(_NUMBER, value):
            raise ValueError(f"must be a number above 0 or auto, not {value!r}")
        return float(value)
    return value


NumberOrAuto = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto,
    BeforeValidator(_number_or_auto),
    WithJsonSchema(
        {
            "x-kubernetes-preserve-unknown-fields": True,
            "maxLength": 32,
            "pattern": f"^(auto|{_NUMBER})$",
            "exclusiveMinimum": 0,
        }
    ),
]
"""A positive number, or `auto`. A structural schema has no such union, so the type is open there: numbers and strings
are checked at admission, anything else in Preparing."""

_QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?"
_QUANTITY_MESSAGE = 'must be a Kubernetes quantity, as in "4", "500m" or "16Gi"'


def _quantity(value: Any) -> Any:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(text, str) and not re.fullmatch(_QUANTITY, text):
        raise ValueError(f"{_QUANTITY_MESSAGE}; found {value!r}")
    return text


Quantity = Annotated[
    str,
    BeforeValidator(_quantity),
    Field(max_length=32),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "x-kubernetes-validations": [
                {
                    "rule": f"type(self) == int ? self >= 0 : self.matches(r'^{_QUANTITY}$')",
                    "message": _QUANTITY_MESSAGE,
                }
            ],
        }
    ),
]
"""A Kubernetes resource quantity."""


def _decimal(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _shortest(value: float) -> str:
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"


Decimal = Annotated[
    float,
    BeforeValidator(_decimal),
    PlainSerializer(_shortest, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "maxLength": 32}),
]
"""A number of status, written as a string of six significant digits, as the Kubernetes API conventions ask."""

Timestamp = Annotated[str, Field(max_length=32), WithJsonSchema({"type": "string", "format": "date-time"})]
"""RFC 3339 in UTC, whole seconds."""
