"""Turns the API models into a CustomResourceDefinition with a structural schema.

Decides how JSON Schema as pydantic writes it becomes the dialect of the API server, and nothing about the API itself:
fields, limits, defaults and rules are the models' own. Only scripts and tests import this module.
"""

from typing import Any

from pydantic import BaseModel

from finetune_api.immutability import immutability_rule
from finetune_api.names import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.v1alpha1 import FineTuneJob

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
_REWRITTEN = ("const", "exclusiveMinimum", "exclusiveMaximum", "items", "properties", "additionalProperties", "default")
_DROPPED = ("title",)

_META_DESCRIPTIONS = {
    "apiVersion": f"{GROUP}/{VERSION}.",
    "kind": f"{KIND}.",
}


def custom_resource_definition() -> dict[str, Any]:
    """The whole CRD as the API server takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": _names(),
            "versions": [_version()],
        },
    }


def structural(model: type[BaseModel], *, defaults: bool) -> Schema:
    """The structural schema of a model; without defaults for what the operator writes and nobody fills in."""
    document = model.model_json_schema(by_alias=True)
    return _convert(document, document.get("$defs", {}), defaults)


def _names() -> dict[str, Any]:
    return {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": [SHORT_NAME],
        "categories": ["finetune"],
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [*_columns()],
        "selectableFields": [
            {"jsonPath": ".spec.method.type"},
            {"jsonPath": ".spec.policy.suspend"},
            {"jsonPath": ".spec.task"},
        ],
        "schema": {"openAPIV3Schema": _root()},
    }


def _root() -> Schema:
    return {
        "description": FineTuneJob.__doc__,
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-validations": [immutability_rule()],
        "properties": {
            **{name: {"type": "string", "description": text} for name, text in _META_DESCRIPTIONS.items()},
            "metadata": {"type": "object"},
            "spec": structural(FineTuneJobSpec, defaults=True),
            "status": structural(FineTuneJobStatus, defaults=False),
        },
    }


def _columns() -> list[dict[str, Any]]:
    return [
        _column("Phase", ".status.phase", "Where the whole job stands."),
        _column("Method", ".spec.method.type", "How the weights are changed."),
        _column("Model", ".spec.model.source", "The model to tune."),
        _column("Progress%", ".status.progress.percent", "How far the running stage is, in percent.", "integer"),
        _column("Loss", ".status.metrics.loss", "Training loss, in nats per supervised token."),
        _column("Eval", ".status.metrics.evalLoss", "Loss on the held-out rows, in nats per supervised token."),
        _column(
            "ETA(s)", ".status.progress.secondsLeft", "Estimate of the time left in this stage, in seconds.", "integer"
        ),
        _column("Age", ".metadata.creationTimestamp", "Time since the job was created.", "date"),
        _column("Nodes", ".spec.distributed.nodes", "Pods that train.", "integer", priority=1),
        _column("Attempts", ".status.attempts.count", "Attempts started, over all stages.", "integer", priority=1),
        _column("Message", ".status.message", "One sentence for a person.", priority=1),
    ]


def _column(name: str, path: str, description: str, kind: str = "string", *, priority: int = 0) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**column, "priority": priority} if priority else column


def _convert(node: Schema, definitions: dict[str, Schema], defaults: bool) -> Schema:
    node = _inline(node, definitions)
    unknown = [key for key in node if key not in (*_KEPT, *_REWRITTEN, *_DROPPED, "$defs")]
    if unknown:
        raise ValueError(f"a structural schema cannot say {', '.join(unknown)}; found in {node}")
    result = {key: node[key] for key in _KEPT if key in node}
    result |= _bounds(node)
    if "const" in node:
        result["enum"] = [node["const"]]
    if "items" in node:
        result["items"] = _convert(node["items"], definitions, defaults)
        result.setdefault("x-kubernetes-list-type", "atomic")
    result |= _members(node, definitions, defaults)
    return result | (_default(node, result) if defaults else {})


def _inline(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The node with its reference replaced by the target and `X or null` by X; what stands beside either wins."""
    if "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _inline(definitions[node["$ref"].rpartition("/")[2]] | beside, definitions)
    if "anyOf" in node:
        beside = {key: value for key, value in node.items() if key != "anyOf"}
        choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        if len(choices) > 1:
            raise ValueError(f"a structural schema cannot say anyOf; found in {node}")
        return _inline(choices[0], definitions) | beside
    return node


def _bounds(node: Schema) -> Schema:
    """Exclusive bounds are flags beside the bound in this dialect."""
    result: Schema = {}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
    return result


def _members(node: Schema, definitions: dict[str, Schema], defaults: bool) -> Schema:
    if "properties" in node:
        fields = {name: _convert(field, definitions, defaults) for name, field in node["properties"].items()}
        return {"properties": fields}
    values = node.get("additionalProperties")
    return {"additionalProperties": _convert(values, definitions, defaults)} if isinstance(values, dict) else {}


def _default(node: Schema, result: Schema) -> Schema:
    """The default. That of an object is spelled out, because the API server judges it by its rules as it stands."""
    if node.get("default") is None:
        return {}
    if "properties" not in result:
        return {"default": node["default"]}
    return {"default": {name: field["default"] for name, field in result["properties"].items() if "default" in field}}
