"""How one file becomes rows: JSON Lines, JSON, CSV, TSV, text, Parquet, Arrow. An unreadable row is a Record with its
problem.

Lines are counted from 1 as an editor shows them. Text is UTF-8 with or without a byte order mark; anything else is
refused with the offset of the first wrong byte, because a guessed encoding trains on garbage.
"""

import csv
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.data.class_names import names_in_schema, with_names
from finetune_trainer.data.compression import DataFile
from finetune_trainer.data.records import Place, Record, kind_of, without_nulls
from finetune_trainer.errors import InvalidDataError

_BOM = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16 (little-endian)", b"\xfe\xff": "UTF-16 (big-endian)"}
_BATCH_ROWS = 1024
_PEEK = 1 << 16
_WRAPPERS = {"data", "rows", "examples", "instances", "train"}
"""Keys under which exports keep their list of rows."""
LINE_LIMIT = 64 * 2**20
"""Bytes of one line: beyond any context, and what keeps a file without line breaks out of memory."""
DOCUMENT_LIMIT = 1 << 30
"""Bytes of a JSON file, which is read as a whole."""
ROW_GROUP_LIMIT = 4 * 2**30
"""Uncompressed bytes of one row group of a Parquet file, which may be in memory as a whole."""
csv.field_size_limit(LINE_LIMIT)


def read_json_lines(file: DataFile) -> Iterator[Record]:
    """One JSON object per line; empty lines are passed over."""
    for number, line in _text_lines(file):
        if line.strip():
            record = _parsed(Place(file.name, number), line.rstrip("\r\n"))
            yield record if line.endswith("\n") else _perhaps_cut_off(record)


def read_json(file: DataFile) -> Iterator[Record]:
    """A list of objects, an object with one list of objects in it, or JSON Lines under the wrong name."""
    if _holds_lines(file):
        return read_json_lines(file)
    return _listed(file, _whole(file))


def read_text(file: DataFile) -> Iterator[Record]:
    """One row per line, in the column `text`; empty lines are passed over."""
    for number, line in _text_lines(file):
        if line.strip():
            yield Record(Place(file.name, number), {"text": line.rstrip("\r\n")})


def read_csv(file: DataFile) -> Iterator[Record]:
    """Rows under a header of column names; the separator is a comma."""
    return _separated(file, ",")


def read_tsv(file: DataFile) -> Iterator[Record]:
    """Rows under a header of column names; the separator is a tab."""
    return _separated(file, "\t")


def read_parquet(file: DataFile) -> Iterator[Record]:
    """Rows of a Parquet file, in batches."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        table = pyarrow.parquet.ParquetFile(file.path)
        _check_row_groups(file, table.metadata)
        yield from _rows(file, table.iter_batches(batch_size=_BATCH_ROWS))
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidDataError(f"{file.name} is not a readable Parquet file: {error}") from error


def read_arrow(file: DataFile) -> Iterator[Record]:
    """Rows of an Arrow IPC file or stream, such as `Dataset.save_to_disk` of the datasets library writes."""
    try:
        with pyarrow.memory_map(str(file.path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            if is_file:
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                batches = iter(pyarrow.ipc.open_stream(source))
            parts = (batch.slice(i, _BATCH_ROWS) for batch in batches for i in range(0, batch.num_rows, _BATCH_ROWS))
            yield from _rows(file, map(_validated, parts))
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidDataError(f"{file.name} is not a readable Arrow file: {error}") from error


def _validated(batch: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """`batch`, once its offsets are known to lie inside its buffers: an IPC file is believed otherwise."""
    batch.validate(full=True)
    return batch


def _rows(file: DataFile, batches: Iterator[Any]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        namings = names_in_schema(batch.schema.metadata)
        for columns in batch.to_pylist():
            number += 1
            values = {name: without_nulls(value) for name, value in columns.items()}
            yield Record(Place(file.name, number, "row"), with_names(values, namings))


def _check_row_groups(file: DataFile, metadata: Any) -> None:  # noqa: ANN401 - pyarrow has no types
    largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
    if largest > ROW_GROUP_LIMIT:
        raise InvalidDataError(
            f"{file.name} has a row group of {largest} bytes, more than {ROW_GROUP_LIMIT}; write it with smaller ones"
        )


@dataclass(frozen=True)
class FileFormat:
    """How rows are stored in a file."""

    name: str
    read: Callable[[DataFile], Iterator[Record]]
    text: bool = True
    """Whether it is text, which may be compressed as a whole."""


FORMATS: dict[str, FileFormat] = {
    ".jsonl": FileFormat("JSON Lines", read_json_lines),
    ".ndjson": FileFormat("JSON Lines", read_json_lines),
    ".json": FileFormat("JSON", read_json),
    ".csv": FileFormat("CSV", read_csv),
    ".tsv": FileFormat("TSV", read_tsv),
    ".txt": FileFormat("text", read_text),
    ".parquet": FileFormat("Parquet", read_parquet, text=False),
    ".arrow": FileFormat("Arrow", read_arrow, text=False),
}
"""Format of each file extension."""


def _text_lines(file: DataFile) -> Generator[tuple[int, str], None, None]:
    """Number and text of each line. Raises InvalidDataError at the first byte that is not UTF-8."""
    offset = 0
    number = 0
    with file.open() as stream:
        while raw := stream.readline(LINE_LIMIT + 1):
            number += 1
            if len(raw) > LINE_LIMIT:
                raise InvalidDataError(
                    f"{file.name}: line {number} has more than {LINE_LIMIT} bytes: it is refused; write one row a line"
                )
            line = raw
            if number == 1:
                _refuse_other_marks(file, raw)
                line = raw.removeprefix(_BOM)
            yield number, _decoded(file, line, number, offset + len(raw) - len(line))
            offset += len(raw)


def _refuse_other_marks(file: DataFile, raw: bytes) -> None:
    for mark, encoding in _OTHER_MARKS.items():
        if raw.startswith(mark):
            raise InvalidDataError(f"{file.name} is {encoding}, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8")


def _decoded(file: DataFile, raw: bytes, line: int | None, offset: int) -> str:
    """The text of `raw`, which is line number `line`, or the whole file; it starts at byte `offset`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1 if line is None else line
        place = f"byte {offset + error.start} (line {number})"
        raise InvalidDataError(
            f"{file.name} is not UTF-8: {place} is 0x{raw[error.start]:02x}; convert the file to UTF-8"
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


def _perhaps_cut_off(record: Record) -> Record:
    """A record of a line without a line break: if it cannot be read, the file may have ended too early."""
    if record.problem is None:
        return record
    return replace(record, problem=f"{record.problem}; the line does not end, so the file may be cut off")


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


def _holds_lines(file: DataFile) -> bool:
    """Whether a .json file is JSON Lines in truth: its first line is a row by itself."""
    with file.open() as stream:
        head = stream.read(_PEEK).removeprefix(_BOM).lstrip()
    if not head.startswith(b"{"):
        return False
    lines = _text_lines(file)
    try:
        return _is_row(next((line.strip() for _, line in lines if line.strip()), ""))
    finally:
        lines.close()


def _whole(file: DataFile) -> object:
    with file.open() as stream:
        raw = stream.read(DOCUMENT_LIMIT + 1)
    if len(raw) > DOCUMENT_LIMIT:
        raise InvalidDataError(
            f"{file.name} has more than {DOCUMENT_LIMIT} bytes; write it as JSON Lines: one row a line"
        )
    _refuse_other_marks(file, raw)
    text = _decoded(file, raw.removeprefix(_BOM), None, len(raw) - len(raw.removeprefix(_BOM)))
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidDataError(f"{file.name} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidDataError(
            f"{file.name} is not JSON: line {error.lineno}: {error.msg} at column {error.colno}"
        ) from error
    except ValueError as error:
        raise InvalidDataError(f"{file.name} is not JSON: {error}") from error


def _listed(file: DataFile, document: object) -> Iterator[Record]:
    rows = document
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list)]
        rows = document[lists[0]] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise InvalidDataError(f"{file.name} must hold a list of objects, not {kind_of(document)}")
    for number, value in enumerate(rows, start=1):
        yield _as_record(Place(file.name, number, "item"), value)


def _separated(file: DataFile, separator: str) -> Iterator[Record]:
    reader = csv.reader((line for _, line in _text_lines(file)), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InvalidDataError(f"{file.name}: line {reader.line_num}: {error}") from error
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = _header(file, fields)
        else:
            yield _csv_record(Place(file.name, first_line), header, fields)


def _header(file: DataFile, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        what = f"the column {twice[0]!r} twice" if twice else "a column without a name"
        raise InvalidDataError(f"{file.name}: line 1, the header, has {what}")
    return names


def _csv_record(place: Place, header: list[str], fields: list[str]) -> Record:
    if len(fields) != len(header):
        return Record(place, {}, f"{len(fields)} fields where the header has {len(header)}")
    return Record(place, dict(zip(header, fields, strict=True)))
