"""Names of labels that a table stores as numbers: the ClassLabel features of the datasets library.

Arrow and Parquet files that the library wrote carry them in their schema, hub datasets in their features. Must not
judge a label.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

Naming = Callable[[Any], Any]
"""Value of a column -> the same with names in place of numbers; None for a number that has no name."""
_KEY = b"huggingface"


def names_in_schema(metadata: Mapping[bytes, bytes] | None) -> dict[str, Naming]:
    """By column: how an Arrow schema's `metadata` names the labels in it; empty without any."""
    try:
        features = json.loads((metadata or {})[_KEY])["info"]["features"]
        return _namings(features)
    except (KeyError, TypeError, ValueError):
        return {}


def names_in_features(features: Any) -> dict[str, Naming]:  # noqa: ANN401 - datasets.Features
    """The same for the features of a loaded dataset."""
    return _namings(features.to_dict() if features is not None else {})


def with_names(columns: dict[str, Any], namings: Mapping[str, Naming]) -> dict[str, Any]:
    """`columns` with the names of their labels."""
    return {**columns, **{name: naming(columns[name]) for name, naming in namings.items() if name in columns}}


def _namings(features: Mapping[str, Any]) -> dict[str, Naming]:
    found = {column: _naming(feature) for column, feature in features.items()}
    return {column: naming for column, naming in found.items() if naming is not None}


def _naming(feature: Any) -> Naming | None:  # noqa: ANN401 - JSON
    if isinstance(feature, list):
        return _of_list(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, dict):
        return None
    kind = feature.get("_type")
    if kind == "ClassLabel" and isinstance(feature.get("names"), list):
        return _of_label(feature["names"])
    return _of_list(feature.get("feature")) if kind in ("List", "LargeList", "Sequence") else None


def _of_label(names: list[str]) -> Naming:
    def named(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        return names[value] if 0 <= value < len(names) else None  # -1 stands for a label that is not known

    return named


def _of_list(feature: Any) -> Naming | None:  # noqa: ANN401
    inner = _naming(feature)
    if inner is None:
        return None
    return lambda values: [inner(value) for value in values] if isinstance(values, list) else values
