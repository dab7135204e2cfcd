import gzip
import json
from pathlib import Path

import pytest

from finetune_trainer.data.compression import DataFile
from finetune_trainer.data.files import data_files, read_files
from finetune_trainer.data.readers import FORMATS
from finetune_trainer.data.records import Record
from finetune_trainer.data.slices import Slice, parse_slice
from finetune_trainer.errors import InvalidDataError, InvalidSpecError, SourceNotFoundError


def records(path: Path) -> list[Record]:
    file = DataFile(path)
    return [*FORMATS[file.format].read(file)]


def read(path: Path) -> list[tuple[int, object, str | None]]:
    return [(r.place.number, r.columns, r.problem) for r in records(path)]


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_are_numbered_as_an_editor_shows_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "one"}\n\n{"text": "two"}')
    assert read(path) == [(1, {"text": "one"}, None), (3, {"text": "two"}, None)]


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ('{"text": "a" "b"}', "not JSON: Expecting ',' delimiter at column 14"),
        ('{"text": ', "not JSON: Expecting value at column 10"),
        ("hello", "not JSON: Expecting value at column 1"),
        ('["text"]', "a row must be an object with named columns, not a list"),
        ('"text"', "a row must be an object with named columns, not text"),
        ("null", "a row must be an object with named columns, not null"),
        ('{"score": NaN}', "not JSON: NaN is not a JSON value"),
        ("[" * 100_000, "not JSON that can be read: nested too deeply"),
    ],
)
def test_a_line_that_is_no_row_says_why(tmp_path: Path, line: str, want: str) -> None:
    path = written(tmp_path, "a.jsonl", f'{{"text": "fine"}}\n{line}\n')
    assert read(path)[1] == (2, {}, want)


def test_a_last_line_that_does_not_end_may_mean_a_file_that_was_cut_off(tmp_path: Path) -> None:
    (_, first, second) = read(written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text" 1}\n{"text": "b'))
    assert first == (2, {}, "not JSON: Expecting ':' delimiter at column 9")
    assert second[2] is not None
    assert second[2].endswith("at column 10; the line does not end, so the file may be cut off")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')) == [(1, {"text": "x"}, None)]
    assert read(written(tmp_path, "a.csv", b"\xef\xbb\xbftext\nx\n")) == [(2, {"text": "x"}, None)]


def test_another_encoding_is_refused_with_byte_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(InvalidDataError, match=r"a\.jsonl is not UTF-8: byte 28 \(line 2\) is 0xe9; convert"):
        read(path)


@pytest.mark.parametrize(("encoding", "want"), [("utf-16-le", "little-endian"), ("utf-16-be", "big-endian")])
def test_utf_16_is_named(tmp_path: Path, encoding: str, want: str) -> None:
    mark = b"\xff\xfe" if encoding.endswith("le") else b"\xfe\xff"
    path = written(tmp_path, "a.jsonl", mark + '{"text": "x"}\n'.encode(encoding))
    with pytest.raises(InvalidDataError, match=want):
        read(path)


@pytest.mark.parametrize(
    "content",
    ['[{"text": "x"}, {"text": "y"}]', '{"data": [{"text": "x"}, {"text": "y"}]}', '{"text": "x"}\n{"text": "y"}\n'],
    ids=["a list", "an object with one list", "JSON Lines under the wrong name"],
)
def test_a_json_file_may_hold_its_rows_in_three_ways(tmp_path: Path, content: str) -> None:
    assert [columns for _, columns, _ in read(written(tmp_path, "a.json", content))] == [{"text": "x"}, {"text": "y"}]


def test_a_broken_json_file_is_refused_with_line_and_column(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '[\n  {"text": "x"},\n  {"text": }\n]')
    with pytest.raises(InvalidDataError, match=r"a\.json is not JSON: line 3: Expecting value at column 12"):
        read(path)


def test_a_json_file_without_rows_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="must hold a list of objects, not text"):
        read(written(tmp_path, "a.json", '"hello"'))


def test_csv_keeps_quoted_line_breaks_and_the_number_of_the_first_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'prompt,completion\n"two\nlines",x\nnext,y\n')
    want = [(2, {"prompt": "two\nlines", "completion": "x"}, None), (4, {"prompt": "next", "completion": "y"}, None)]
    assert read(path) == want


def test_a_csv_row_with_too_many_fields_is_named(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.csv", "a,b\n1,2,3\n"))[0] == (2, {}, "3 fields where the header has 2")


@pytest.mark.parametrize(("header", "want"), [("a,a", "the column 'a' twice"), ("a,", "a column without a name")])
def test_a_csv_header_must_name_each_column_once(tmp_path: Path, header: str, want: str) -> None:
    with pytest.raises(InvalidDataError, match=want):
        read(written(tmp_path, "a.csv", f"{header}\n1,2\n"))


def test_tab_separated_rows_are_read(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.tsv", "a\tb\n1,5\t2\n")) == [(2, {"a": "1,5", "b": "2"}, None)]


def test_parquet_rows_are_counted_as_rows(tmp_path: Path) -> None:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y"]}), path)
    assert [(str(r.place), r.columns) for r in records(path)] == [("row 1", {"text": "x"}), ("row 2", {"text": "y"})]


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"a\.parquet is not a readable Parquet file"):
        read(written(tmp_path, "a.parquet", b"PAR1 and nothing else"))


def files(path: Path, split: str = "train") -> list[str]:
    return [file.path.name for file in data_files(path, path if path.is_dir() else path.parent, "pvc://data/x", split)]


def test_a_folder_gives_the_files_of_the_split(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation.jsonl", "README.md"):
        written(tmp_path, name, "x")
    assert files(tmp_path) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert files(tmp_path, "dev") == ["validation.jsonl"]


def test_files_that_name_no_split_are_train_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "test.jsonl", ".hidden.jsonl", "dataset_info.json"):
        written(tmp_path, name, "x")
    assert files(tmp_path) == ["a.jsonl", "b.jsonl"]


def test_a_split_that_is_not_there_names_what_is(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", "x")
    with pytest.raises(SourceNotFoundError, match=r"no file of split 'test'; it holds train\.jsonl"):
        files(tmp_path, "test")


def test_a_folder_without_data_says_what_it_holds(tmp_path: Path) -> None:
    written(tmp_path, "notes.docx", "x")
    with pytest.raises(SourceNotFoundError, match=r"holds no data file .*; it holds notes\.docx"):
        files(tmp_path)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("train.tar.gz", r"train\.tar\.gz is not \.jsonl, .* or \.arrow inside; rename or convert it"),
        ("train.tgz", r"train\.tgz is not read; unpack it"),
        ("train.gz", r"train\.gz is not \.jsonl.* inside"),
        ("train.parquet.gz", r"train\.parquet\.gz: Parquet is compressed by itself; store it without gzip"),
        (
            "train.xlsx",
            r"is not \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.txt, \.parquet or \.arrow; rename or convert",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, want: str) -> None:
    path = written(tmp_path, name, gzip.compress(b"{}"))
    with pytest.raises(InvalidDataError, match=want):
        files(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"train\.jsonl is empty"):
        files(written(tmp_path, "train.jsonl", ""))


def test_a_link_that_leaves_the_claim_is_refused(tmp_path: Path) -> None:
    outside = written(tmp_path, "secret.jsonl", '{"text": "x"}')
    claim = tmp_path / "claim"
    claim.mkdir()
    (claim / "train.jsonl").symlink_to(outside)
    with pytest.raises(SourceNotFoundError, match="symbolic link that leaves its claim"):
        files(claim)


@pytest.mark.parametrize(
    ("split", "want"),
    [
        ("train", range(10)),
        ("train[:3]", range(3)),
        ("train[4:6]", range(4, 6)),
        ("train[:90%]", range(9)),
        ("train[90%:]", range(9, 10)),
        ("train[-2:]", range(8, 10)),
        ("train[:-2]", range(8)),
        ("train[20:]", range(0)),
        ("train[6:4]", range(0)),
    ],
)
def test_a_slice_takes_the_rows_that_the_datasets_library_would(tmp_path: Path, split: str, want: range) -> None:
    path = written(tmp_path, "a.jsonl", "".join(json.dumps({"text": i}) + "\n" for i in range(10)))
    part = parse_slice(split, "dataset.train.split")
    got = [(record.columns["text"], record.place.number) for record in read_files([DataFile(path)], part)]
    assert got == [(i, i + 1) for i in want]


def test_a_split_defaults_to_train() -> None:
    assert parse_slice(None, "dataset.train.split") == Slice("train")


@pytest.mark.parametrize("text", ["train[", "train[5]", "train[:200%]", "a b"])
def test_a_slice_that_means_nothing_names_the_field(text: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"dataset\.eval\.split"):
        parse_slice(text, "dataset.eval.split")
