"""Compressed files and archives: read as they are, or refused before they fill memory or disk."""

import bz2
import gzip
import json
import lzma
import pickle
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow  # type: ignore[import-untyped]
import pytest

from finetune_trainer.data import compression, readers
from finetune_trainer.data.compression import DataFile
from finetune_trainer.data.files import data_files, read_files, stored_as
from finetune_trainer.data.slices import Slice
from finetune_trainer.errors import InvalidDataError, SourceNotFoundError

ROWS = [{"text": "één"}, {"text": "two"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def found(path: Path, split: str = "train") -> list[DataFile]:
    return data_files(path, path if path.is_dir() else path.parent, f"pvc://data/{path.name}", split)


def rows(path: Path, split: str = "train") -> list[object]:
    return [record.columns for record in read_files(found(path, split), Slice(split))]


@pytest.mark.parametrize("suffix", [*PACKERS])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (".jsonl", LINES),
        (".json", json.dumps(ROWS).encode()),
        (".csv", "text\néén\ntwo\n".encode()),
        (".tsv", "text\néén\ntwo\n".encode()),
        (".txt", "één\n\ntwo\n".encode()),
    ],
)
def test_every_text_format_is_read_in_every_compression(tmp_path: Path, suffix: str, kind: str, content: bytes) -> None:
    path = tmp_path / f"train{kind}{suffix}"
    path.write_bytes(PACKERS[suffix](content))
    assert rows(path) == ROWS


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_parts_one_after_the_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](LINES) + PACKERS[suffix](LINES))
    assert rows(path) == ROWS * 2


def test_an_archive_gives_its_data_files_by_split(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "all.zip", {"a/train.jsonl": LINES, "a/test.jsonl": LINES[:17], "__MACOSX/._t.jsonl": b"x"}
    )
    assert rows(path) == ROWS
    assert rows(path, "test") == ROWS[:1]
    assert [file.name for file in found(path)] == ["all.zip/a/train.jsonl"]


def test_a_folder_may_hold_plain_and_compressed_files_and_archives(tmp_path: Path) -> None:
    (tmp_path / "train-0.jsonl").write_bytes(LINES)
    (tmp_path / "train-1.jsonl.gz").write_bytes(gzip.compress(LINES))
    zipped(tmp_path / "more.zip", {"train-2.csv": b"text\nx\n", "test.csv": b"text\ny\n"})
    assert len(rows(tmp_path)) == 5
    assert stored_as(found(tmp_path)) == "CSV, zip and JSON Lines and JSON Lines, gzip"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "file"])
def test_arrow_rows_are_read_without_the_keys_that_the_table_added(tmp_path: Path, stream: bool) -> None:
    table = pyarrow.table({"messages": [[{"role": "user", "name": None}], [{"role": "user", "name": "bo"}]]})
    path = tmp_path / "train.arrow"
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table)
    assert rows(path) == [{"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "name": "bo"}]}]


def test_a_folder_that_the_datasets_library_saved_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert rows(tmp_path / "saved") == ROWS
    assert rows(tmp_path / "saved", "test") == ROWS[:1]


@pytest.mark.parametrize("suffix", [*PACKERS])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](LINES * 50)[:-12])
    with pytest.raises(InvalidDataError, match=r"train\.jsonl\.\w+ is (cut off|not a readable).*copy it again"):
        rows(path)


@pytest.mark.parametrize("suffix", [*PACKERS, ".zip"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train.jsonl{suffix}"
    path.write_bytes(LINES)
    with pytest.raises(InvalidDataError, match=f"is not a readable {compression.COMPRESSIONS[suffix]} file"):
        rows(path)


BINARY = {
    "a Parquet file": b"PAR1xxxx",
    "a zip archive": b"PK\x03\x04xxxx",
    "gzip-compressed": gzip.compress(b"{}"),
    "a pickle": pickle.dumps({"text": "x"}),
}


@pytest.mark.parametrize("kind", [*BINARY])
def test_another_kind_of_file_under_the_name_of_a_text_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(BINARY[kind])
    with pytest.raises(
        InvalidDataError, match=rf"train\.jsonl is {kind} by its content, not \.jsonl; give it the name"
    ):
        rows(tmp_path / "train.jsonl")


@pytest.mark.parametrize("suffix", [".xz", ".zst", ".zip"])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "UNSUSPICIOUS", 1 << 20)
    bomb = b'{"text": "' + b"0" * (8 << 20) + b'"}\n'
    path = tmp_path / f"train.jsonl{suffix}"
    if suffix == ".zip":
        zipped(path, {"train.jsonl": bomb})
    else:
        path.write_bytes(PACKERS[suffix](bomb))
    with pytest.raises(InvalidDataError, match="more than 200 times its size: it is taken for a decompression bomb"):
        rows(path)


def test_an_xz_file_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.xz"
    # A dictionary of this size is only declared in the header; writing one would need the memory itself.
    small = bytearray(lzma.compress(LINES, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    small[0x0C:0x18] = block_header(dictionary=0x24)
    path.write_bytes(bytes(small))
    with pytest.raises(InvalidDataError, match="is not a readable xz file: Memory usage limit exceeded"):
        rows(path)


def block_header(dictionary: int) -> bytes:
    """Of an .xz block with one LZMA2 filter; 0x24 declares a dictionary of 1 GiB."""
    header = bytes([0x02, 0x00, 0x21, 0x01, dictionary, 0, 0, 0])
    return header + zlib.crc32(header).to_bytes(4, "little")


@pytest.mark.parametrize(
    "name", ["../train.jsonl", "/etc/train.jsonl", "a/../../train.jsonl", "..\\train.jsonl", "C:/t.jsonl"]
)
def test_an_archive_whose_names_lead_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "all.zip", {"train.jsonl": LINES, name: b"x"})
    with pytest.raises(InvalidDataError, match=r"all\.zip: the member '.*' leads out of the archive: it is refused"):
        rows(path)


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("train.jsonl")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidDataError, match=r"the member 'train\.jsonl' is a symbolic link"):
        rows(path)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "all.zip", {"train.jsonl": LINES})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidDataError, match="is encrypted; store it without a password"):
        rows(path)


def test_an_archive_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"all\.zip holds no data file"):
        rows(zipped(tmp_path / "all.zip", {"README.md": b"x"}))


def test_a_line_without_end_is_refused_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LINE_LIMIT", 1000)
    path = tmp_path / "train.jsonl"
    path.write_bytes(LINES + b'{"text": "' + b"x" * 5000)
    with pytest.raises(InvalidDataError, match=r"train\.jsonl: line 3 has more than 1000 bytes"):
        rows(path)


def test_a_json_file_that_must_be_read_as_a_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "DOCUMENT_LIMIT", 1000)
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"text": "x" * 5000}]))
    with pytest.raises(InvalidDataError, match=r"train\.json has more than 1000 bytes; write it as JSON Lines"):
        rows(path)


def test_a_parquet_file_with_huge_row_groups_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet  # type: ignore[import-untyped]

    monkeypatch.setattr(readers, "ROW_GROUP_LIMIT", 1000)
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"{i}" for i in range(1000)]}), tmp_path / "train.parquet")
    with pytest.raises(InvalidDataError, match=r"train\.parquet has a row group of \d+ bytes, more than 1000"):
        rows(tmp_path / "train.parquet")


def test_an_arrow_file_whose_offsets_lie_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.arrow"
    table = pyarrow.table({"text": ["abcdefgh" * 4, "b"]})
    with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    offsets = (0).to_bytes(4, "little") + (32).to_bytes(4, "little") + (33).to_bytes(4, "little")
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, offsets[:8] + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(InvalidDataError, match=r"train\.arrow is not a readable Arrow file"):
        rows(path)
