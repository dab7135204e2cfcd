"""Judges a safetensors file before any library opens it, reading its header only.

The format cannot run code, but a hostile header can eat memory or time, and a cut file fails only hours later. Must not
read tensor data.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from finetune_trainer.errors import InvalidModelError

HEADER_LIMIT = 16 * 2**20
TENSOR_LIMIT = 50_000
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one element of each data type that is accepted."""
_LENGTH_BYTES = 8
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorHeader:
    """What the header says of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def check_safetensors(path: Path, name: str) -> list[TensorHeader]:
    """The tensors of file `path`, called `name` in messages. Raises InvalidModelError unless its header is sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or _LENGTH_BYTES + length > size:
            _refuse_pickle(prefix, name)
            raise InvalidModelError(f"{name} is not a whole safetensors file: {size} bytes are too few; copy it again")
        if length > HEADER_LIMIT:
            raise InvalidModelError(f"{name}: its header has {length} bytes, more than {HEADER_LIMIT}; it is refused")
        header = _parsed(file.read(length), name)
    return _tensors(header, size - _LENGTH_BYTES - length, name)


def _refuse_pickle(prefix: bytes, name: str) -> None:
    """Raise InvalidModelError for what torch.save writes: a zip archive with a pickle in it, or a pickle."""
    if prefix.startswith((b"PK\x03\x04", *_PICKLES)):
        raise InvalidModelError(
            f"{name} is a pickle under the name of safetensors and is refused: it can run code when read. Save the "
            "model as safetensors: model.save_pretrained(folder)"
        )


def _parsed(raw: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"{name} is not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise InvalidModelError(f"{name} is not a safetensors file: its header is not an object")
    if len(header) > TENSOR_LIMIT:
        raise InvalidModelError(f"{name} declares {len(header)} tensors, more than {TENSOR_LIMIT}; it is refused")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name occurs twice")
    return document


def _tensors(header: dict[str, Any], data_bytes: int, name: str) -> list[TensorHeader]:
    entries = [(key, value) for key, value in header.items() if key != _METADATA]
    spans = [(*_span(key, value, name), key) for key, value in entries]
    position = 0
    for start, end, key in sorted(spans):
        if start != position:
            raise InvalidModelError(f"{name}: tensor {key!r} starts at {start} where {position} was expected: refused")
        position = end
    if position != data_bytes:
        raise InvalidModelError(
            f"{name} has {data_bytes} bytes of tensors where its header declares {position}: copy the file again"
        )
    return [TensorHeader(key, value["dtype"], tuple(value["shape"])) for key, value in entries]


def _span(key: str, entry: object, name: str) -> tuple[int, int]:
    """First byte and byte after the last of a tensor, checked against its type and shape."""
    if not isinstance(entry, dict):
        raise InvalidModelError(f"{name}: the entry of tensor {key!r} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in ITEM_BYTES:
        raise InvalidModelError(
            f"{name}: tensor {key!r} is of type {dtype!r}; use an unquantized model ({', '.join(ITEM_BYTES)})"
        )
    if not (_is_naturals(shape) and _is_naturals(offsets)) or len(offsets) != 2:
        raise InvalidModelError(f"{name}: tensor {key!r} has no sound shape and data_offsets")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise InvalidModelError(f"{name}: tensor {key!r} takes {end - start} bytes, which its shape does not")
    return start, end


def _is_naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
