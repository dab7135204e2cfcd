"""Value types shared by spec and status: what a name, a source, an automatic value and a decimal may look like."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, PlainSerializer, WithJsonSchema

Auto = Literal["auto"]

LocalName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of an object in the job's own namespace."""

Label = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label."""

Text = Annotated[str, Field(max_length=1024)]
LongText = Annotated[str, Field(max_length=32768)]

_SHAPES = {
    "hf": "hf://org/name",
    "pvc": "pvc://claim/path",
    "s3": "s3://bucket/key",
    "gs": "gs://bucket/key",
    "az": "az://container/path",
    "oci": "oci://registry/name",
    "job": "job://name",
}
_SEGMENT = "[A-Za-z0-9_][A-Za-z0-9._~+=:,-]*"


def source_type(field: str, *schemes: str) -> Any:
    """The type of a reference: one of `schemes` and a path that cannot leave it (no `..`, no empty part)."""
    pattern = f"^({'|'.join(schemes)})://{_SEGMENT}(/{_SEGMENT})*/?$"
    message = f"{field} must look like {', '.join(_SHAPES[scheme] for scheme in schemes)}; '..', empty parts and spaces are refused"

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{message}; found {value!r}")
        return value

    validation: JsonValue = {"rule": f"self.matches('{pattern}')", "message": message}
    return Annotated[
        str,
        AfterValidator(check),
        Field(max_length=512, json_schema_extra={"x-kubernetes-validations": [validation]}),
    ]


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
"""A positive number, or `auto`. A structural schema has no such union, so the type is open there: numbers and strings are
checked at admission, anything else in Preparing."""

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value),
    Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$",
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
