"""The reference page of the API: one table for each object of spec and status."""

import json
from collections.abc import Iterator
from typing import Any

from finetune_api.names import API_VERSION, KIND
from finetune_api.schema import custom_resource_definition
from generation.markdown import code, page, table

Schema = dict[str, Any]

_INTRODUCTION = f"""\
Every field of `{KIND}` (`{API_VERSION}`). A field without a default is absent unless it is set; one marked *required*
must be set. The API server fills in the defaults, so `kubectl get -o yaml` shows what runs."""


def reference() -> str:
    """docs/reference/api.md."""
    (version,) = custom_resource_definition()["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    parts = [part for name in ("spec", "status") for part in _sections(name, root["properties"][name])]
    return page(KIND, _INTRODUCTION, *parts)


def _sections(path: str, schema: Schema) -> Iterator[str]:
    yield f"## {path}\n\n{schema['description']}"
    yield table(("Field", "Type", "Default", "Meaning"), (_row(name, schema) for name in schema["properties"]))
    yield from _refusals(schema)
    for name, field in schema["properties"].items():
        if "properties" in field:
            yield from _sections(f"{path}.{name}", field)
        elif "properties" in field.get("items", ()):
            yield from _sections(f"{path}.{name}[]", field["items"])


def _refusals(schema: Schema) -> Iterator[str]:
    if rules := schema.get("x-kubernetes-validations"):
        yield "Refused by the API server, in these words:\n\n" + "\n".join(f"- {rule['message']}" for rule in rules)


def _row(name: str, parent: Schema) -> tuple[str, str, str, str]:
    field = parent["properties"][name]
    required = "*required*" if name in parent.get("required", ()) else ""
    default = code(json.dumps(field["default"])) if "default" in field and "properties" not in field else required
    return code(name), _type(field), default, field["description"]


def _type(field: Schema) -> str:
    if "enum" in field:
        return ", ".join(code(value if isinstance(value, str) else json.dumps(value)) for value in field["enum"])
    if "items" in field:
        return f"list of {_type(field['items'])}, at most {field['maxItems']}"
    if "additionalProperties" in field:
        return f"map of string to {_type(field['additionalProperties'])}"
    return ", ".join((_kind(field), *_limits(field)))


def _kind(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        takes_auto = any("auto" in rule["rule"] for rule in field.get("x-kubernetes-validations", ()))
        return "integer or `auto`" if takes_auto else "quantity"
    if "type" not in field:
        return "number or `auto`" if "minimum" in field else "`auto`, string or list of strings"
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _limits(field: Schema) -> Iterator[str]:
    if "minimum" in field:
        yield f"{'above' if field.get('exclusiveMinimum') else 'at least'} {field['minimum']:g}"
    if "maximum" in field:
        yield f"{'below' if field.get('exclusiveMaximum') else 'at most'} {_plain(field['maximum'])}"
    if "maxLength" in field and field.get("type") == "string":
        yield f"at most {field['maxLength']} characters"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
