"""The generated schema is structural, bounded and documented."""

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from finetune_api.rules import ApiModel
from finetune_api.schema import custom_resource_definition, structural
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus

Schema = dict[str, Any]

_SPEC = structural(FineTuneJobSpec, defaults=True)
_STATUS = structural(FineTuneJobStatus, defaults=False)


def _nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _nodes(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _nodes(schema[key], f"{path}[]")


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for where, node in _nodes(schema, path):
        for name, field in node.get("properties", {}).items():
            yield f"{where}.{name}", field


def _is_text(node: Schema) -> bool:
    return node.get("type") == "string" or "x-kubernetes-int-or-string" in node


def test_every_text_of_the_spec_is_bounded() -> None:
    texts = [(path, node) for path, node in _nodes(_SPEC, "spec") if _is_text(node) and "enum" not in node]
    assert len(texts) > 30
    assert [path for path, node in texts if "maxLength" not in node] == []


def test_every_list_of_the_spec_is_bounded() -> None:
    lists = [(path, node) for path, node in _nodes(_SPEC, "spec") if node.get("type") == "array"]
    assert len(lists) > 4
    assert [path for path, node in lists if "maxItems" not in node] == []


def test_every_map_of_the_spec_is_bounded() -> None:
    maps = [
        (path, node)
        for path, node in _nodes(_SPEC, "spec")
        if node.get("type") == "object" and "properties" not in node
    ]
    assert len(maps) == 4
    assert [path for path, node in maps if "maxProperties" not in node] == []


@pytest.mark.parametrize("fields", [[*_fields(_SPEC, "spec")], [*_fields(_STATUS, "status")]], ids=["spec", "status"])
def test_every_field_is_documented(fields: list[tuple[str, Schema]]) -> None:
    assert len(fields) > 90
    assert [path for path, field in fields if not field.get("description", "").rstrip().endswith(".")] == []


def test_a_field_of_an_open_type_says_that_it_takes_auto() -> None:
    fields = [(path, field) for path, field in _fields(_SPEC, "spec") if field.get("default") == "auto"]
    assert len(fields) > 10
    assert [path for path, field in fields if "enum" not in field and "auto" not in field["description"]] == []


def test_status_has_no_defaults_because_nobody_observed_them() -> None:
    assert [path for path, node in _nodes(_STATUS, "status") if "default" in node] == []


def test_the_default_of_an_object_is_what_its_fields_default_to() -> None:
    objects = [node for _, node in _nodes(_SPEC, "spec") if "properties" in node and "default" in node]
    want_defaults = [
        {name: field["default"] for name, field in node["properties"].items() if "default" in field} for node in objects
    ]
    assert len(objects) > 8
    assert [node["default"] for node in objects] == want_defaults


@pytest.mark.parametrize(
    ("schema", "key"), [(_SPEC["properties"]["exports"], "name"), (_STATUS["properties"]["conditions"], "type")]
)
def test_lists_of_named_objects_merge_by_name(schema: Schema, key: str) -> None:
    assert schema["x-kubernetes-list-type"] == "map"
    assert schema["x-kubernetes-list-map-keys"] == [key]


def test_other_lists_are_replaced_as_a_whole() -> None:
    assert _STATUS["properties"]["children"]["x-kubernetes-list-type"] == "atomic"


def test_a_bound_that_is_left_out_is_a_flag_beside_the_bound() -> None:
    alpha = _SPEC["properties"]["method"]["properties"]["alpha"]
    assert (alpha["minimum"], alpha["exclusiveMinimum"]) == (0, True)


class _Tuple(ApiModel):
    """What a structural schema cannot say."""

    pair: Annotated[tuple[int, str], Field()]
    """A pair."""


class _Union(ApiModel):
    """What a structural schema cannot say."""

    either: int | list[str]
    """Either."""


@pytest.mark.parametrize("model", [_Tuple, _Union])
def test_what_a_structural_schema_cannot_say_is_an_error_here_and_not_at_the_api_server(model: type[ApiModel]) -> None:
    with pytest.raises(ValueError, match="a structural schema cannot say"):
        structural(model, defaults=True)


def test_the_definition_is_namespaced_and_has_a_status_of_its_own() -> None:
    spec = custom_resource_definition()["spec"]
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["shortNames"] == ["ftj"]
    assert spec["names"]["categories"] == ["finetune"]
    assert spec["versions"][0]["subresources"] == {"status": {}}
