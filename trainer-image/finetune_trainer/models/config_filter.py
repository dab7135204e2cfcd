"""Refuses configuration that makes a library run code of the model's author. Judges JSON only; loads nothing.

trust_remote_code=False is not enough: nested and internal keys have run code in spite of it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidModelError

_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
_IMPLEMENTATION = "_implementation"
_CONFIG_LIMIT = 64 * 2**20


def check_config(path: Path, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON in `path`, called `name` in messages. Raises InvalidModelError naming the file and key."""
    document = read_json(path, name)
    for trail, key, value in _entries(document, ""):
        if key in _CODE_KEYS and value is not False:
            raise InvalidModelError(
                f"{name}: {trail}: code that comes with a model is never run; remove the key if transformers knows the "
                "architecture, else choose another model"
            )
        if key.endswith("_internal") or (key.endswith(_IMPLEMENTATION) and "/" in str(value)):
            raise InvalidModelError(f"{name}: {trail}: this key can load code from elsewhere and is refused; remove it")
    return document


def read_json(path: Path, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON in `path`. Raises InvalidModelError."""
    if path.stat().st_size > _CONFIG_LIMIT:
        raise InvalidModelError(f"{name} has more than {_CONFIG_LIMIT} bytes; it is refused")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"{name} is not JSON: {error}") from error


def _entries(value: object, trail: str) -> Iterator[tuple[str, str, object]]:
    """Dotted place, key and value of every key, however deep."""
    pending = [(trail, value)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                yield f"{place}.{key}".lstrip("."), str(key), inner
                pending.append((f"{place}.{key}", inner))
        elif isinstance(item, list):
            pending.extend((f"{place}[{i}]", inner) for i, inner in enumerate(item))
