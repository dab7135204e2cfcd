"""How one file becomes rows: JSON Lines, JSON, CSV, TSV, Parquet. An unreadable row is a Record with its problem.

Lines are counted from 1 as an editor shows them. Text is UTF-8 with or without a byte order mark; anything else is
refused with the offset of the first wrong byte, because a guessed encoding trains on garbage.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.records import Place, Record
from finetune_trainer.errors import InvalidDataError

_BOM = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16 (little-endian)", b"\xfe\xff": "UTF-16 (big-endian)"}
_BATCH_ROWS = 1024
_WRAPPERS = {"data", "rows", "examples", "instances", "train"}
"""Keys under which exports keep their list of rows."""
csv.field_size_limit(2**31 - 1)


def read_json_lines(path: Path) -> Iterator[Record]:
    """One JSON object per line; empty lines are passed over."""
    for number, line in _text_lines(path):
        if line.strip():
            yield _parsed(Place(path.name, number), line.rstrip("\r\n"))


def read_json(path: Path) -> Iterator[Record]:
    """A list of objects, an object with one list of objects in it, or JSON Lines under the wrong name."""
    first = next((line.strip() for _, line in _text_lines(path) if line.strip()), "")
    if first.startswith("{") and _is_row(first):
        return read_json_lines(path)
    return _listed(path, _whole(path))


def read_csv(path: Path) -> Iterator[Record]:
    """Rows under a header of column names; the separator is a comma."""
    return _separated(path, ",")


def read_tsv(path: Path) -> Iterator[Record]:
    """Rows under a header of column names; the separator is a tab."""
    return _separated(path, "\t")


def read_parquet(path: Path) -> Iterator[Record]:
    """Rows of a Parquet file, in batches."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for columns in batch.to_pylist():
                number += 1
                yield Record(Place(path.name, number, "row"), columns)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        raise InvalidDataError(f"{path.name} is not a readable Parquet file: {error}") from error


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
"""Reader of each file extension."""


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line. Raises InvalidDataError at the first byte that is not UTF-8."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw
            if number == 1:
                _refuse_other_marks(path, raw)
                line = raw.removeprefix(_BOM)
            yield number, _decoded(path, line, number, offset + len(raw) - len(line))
            offset += len(raw)


def _refuse_other_marks(path: Path, raw: bytes) -> None:
    for mark, encoding in _OTHER_MARKS.items():
        if raw.startswith(mark):
            raise InvalidDataError(f"{path.name} is {encoding}, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8")


def _decoded(path: Path, line: bytes, number: int, offset: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start} (line {number})"
        raise InvalidDataError(
            f"{path.name} is not UTF-8: {place} is 0x{line[error.start]:02x}; convert the file to UTF-8"
        ) from error


def _parsed(place: Place, text: str) -> Record:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        return Record(place, {}, "not JSON that can be read: nested too deeply")
    except json.JSONDecodeError as error:
        return Record(place, {}, f"not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return Record(place, {}, f"not JSON: {error}")
    return _as_record(place, value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _as_record(place: Place, value: object) -> Record:
    if not isinstance(value, dict):
        return Record(place, {}, f"a row must be an object with named columns, not {kind_of(value)}")
    return Record(place, value)


def _is_row(line: str) -> bool:
    """Whether a first line is a row by itself, and not the start, or all, of one object that wraps the rows."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not (isinstance(document, dict) and len(document) == 1 and _WRAPPERS & document.keys())


def _whole(path: Path) -> object:
    text = "".join(line for _, line in _text_lines(path))
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidDataError(f"{path.name} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidDataError(
            f"{path.name} is not JSON: line {error.lineno}: {error.msg} at column {error.colno}"
        ) from error
    except ValueError as error:
        raise InvalidDataError(f"{path.name} is not JSON: {error}") from error


def _listed(path: Path, document: object) -> Iterator[Record]:
    rows = document
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list)]
        rows = document[lists[0]] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise InvalidDataError(f"{path.name} must hold a list of objects, not {kind_of(document)}")
    for number, value in enumerate(rows, start=1):
        yield _as_record(Place(path.name, number, "item"), value)


def _separated(path: Path, separator: str) -> Iterator[Record]:
    reader = csv.reader((line for _, line in _text_lines(path)), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InvalidDataError(f"{path.name}: line {reader.line_num}: {error}") from error
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = _header(path, fields)
        else:
            yield _csv_record(Place(path.name, first_line), header, fields)


def _header(path: Path, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        what = f"the column {twice[0]!r} twice" if twice else "a column without a name"
        raise InvalidDataError(f"{path.name}: line 1, the header, has {what}")
    return names


def _csv_record(place: Place, header: list[str], fields: list[str]) -> Record:
    if len(fields) != len(header):
        return Record(place, {}, f"{len(fields)} fields where the header has {len(header)}")
    return Record(place, dict(zip(header, fields, strict=True)))


def kind_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The JSON type of `value`, for a message."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
