"""Opens one data file as a stream of bytes, uncompressed on the way, and refuses what is not what its name says.

A compressed file may unpack to far more than anybody meant to store, so the stream counts and stops. Nothing is ever
unpacked onto a disk. Must not know what the bytes mean.
"""

import bz2
import gzip
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.errors import InvalidDataError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
"""Name of each compression that is read, by file extension."""
EXPANSION_LIMIT = 200
"""Most bytes that one compressed byte may become, once UNSUSPICIOUS bytes came out. Text shrinks to a tenth or so."""
UNSUSPICIOUS = 64 * 2**20
XZ_MEMORY = 256 * 2**20
"""Bytes of memory that an .xz file may ask for; the strongest preset of the xz program needs a quarter."""
MEMBER_LIMIT = 10_000
_CHUNK = 1 << 20
_MAGIC = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ\x00": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"SQLite format 3": "an SQLite database",
    b"%PDF-": "a PDF document",
}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, ValueError)


@dataclass(frozen=True)
class DataFile:
    """A file with rows, or one member of a zip archive."""

    path: Path
    member: str = ""
    """Name inside the archive."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path.name}/{self.member}" if self.member else self.path.name

    @property
    def compression(self) -> str:
        """Extension of the compression, as in `.gz`; empty for a plain file."""
        return self.path.suffix.lower() if self.path.suffix.lower() in COMPRESSIONS else ""

    @property
    def format(self) -> str:
        """Extension that says how rows are stored, as in `.jsonl`; empty when the name has none."""
        named = PurePosixPath(self.member or self.path.name)
        return PurePosixPath(named.stem if self.compression and not self.member else named.name).suffix.lower()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The uncompressed bytes. Raises InvalidDataError when they are cut off, damaged or too many."""
        try:
            with self._raw() as raw:
                stream = io.BufferedReader(_Bounded(raw, self._stored_bytes(), self.name), _CHUNK)
                yield cast("BinaryIO", stream)
        except EOFError as error:
            raise InvalidDataError(
                f"{self.name} is cut off: its compressed data ends too early; copy it again"
            ) from error
        except _UNREADABLE as error:
            if not self.compression or isinstance(error, UnicodeError):
                raise
            kind = COMPRESSIONS[self.compression]
            raise InvalidDataError(f"{self.name} is not a readable {kind} file: {error}; copy it again") from error

    def refuse_other_kind(self) -> None:
        """Raise InvalidDataError when the content of a text format begins as that of a binary one."""
        with self.open() as file:
            head = file.read(16)
        found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        if found:
            raise InvalidDataError(
                f"{self.name} is {found} by its content, not {self.format or 'text'}; give it the name of what it is, "
                "or convert it"
            )

    @contextmanager
    def _raw(self) -> Iterator[IO[bytes]]:
        if self.compression == ".zip":
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as member:
                yield member
            return
        with _OPENERS[self.compression](self.path) as stream:
            yield stream

    def _stored_bytes(self) -> int | None:
        """Compressed bytes; None for a plain file, which cannot grow."""
        if self.compression == ".zip":
            with zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).compress_size
        return self.path.stat().st_size if self.compression else None


class _Bounded(io.RawIOBase):
    """Bytes of `inner`, until they are too many for the `stored` bytes that they come from."""

    def __init__(self, inner: IO[bytes], stored: int | None, name: str) -> None:
        self._inner = inner
        self._limit = None if stored is None else max(UNSUSPICIOUS, stored * EXPANSION_LIMIT)
        self._name = name
        self._count = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill `buffer`; 0 at the end."""
        view = memoryview(cast("bytearray", buffer)).cast("B")
        chunk = self._inner.read(len(view))
        self._count += len(chunk)
        if self._limit is not None and self._count > self._limit:
            raise InvalidDataError(
                f"{self._name} unpacks to more than {EXPANSION_LIMIT} times its size: it is taken for a decompression "
                "bomb and refused; if it is none, store it uncompressed"
            )
        view[: len(chunk)] = chunk
        return len(chunk)


class _XzStream(io.RawIOBase):
    """An .xz file, read with a bound on the memory that it may ask for, which lzma.open does not take."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._decompressor = self._fresh()

    @staticmethod
    def _fresh() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; empty at the end."""
        while True:
            if self._decompressor.eof:
                rest = (self._decompressor.unused_data or self._file.read(_CHUNK)).lstrip(b"\0")
                if not rest:
                    return b""
                self._decompressor = self._fresh()
            else:
                rest = self._file.read(_CHUNK) if self._decompressor.needs_input else b""
                if not rest and self._decompressor.needs_input:
                    raise EOFError
            if chunk := self._decompressor.decompress(rest, size):
                return chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def _zstd(path: Path) -> Iterator[IO[bytes]]:
    with pyarrow.input_stream(str(path), compression="zstd") as stream:
        yield stream


_OPENERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "": lambda path: path.open("rb"),
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": _XzStream,
    ".zst": _zstd,
}


def archived(path: Path) -> list[DataFile]:
    """The files in zip archive `path`, sorted by name.

    Raises InvalidDataError for an archive that is damaged, encrypted, of absurdly many files, or that has a name which
    would leave the folder it is unpacked into: nothing is unpacked here, but such an archive was made to harm.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidDataError(f"{path.name} is not a readable zip file: {error}; copy it again") from error
    if len(members) > MEMBER_LIMIT:
        raise InvalidDataError(f"{path.name} holds {len(members)} files, more than {MEMBER_LIMIT}: it is refused")
    for info in members:
        _check_member(path, info)
    return sorted((DataFile(path, info.filename) for info in members), key=lambda file: file.member)


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(info.filename.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise InvalidDataError(f"{path.name}: the member {info.filename!r} leads out of the archive: it is refused")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InvalidDataError(f"{path.name}: the member {info.filename!r} is a symbolic link: it is refused")
    if info.flag_bits & 0x1:
        raise InvalidDataError(f"{path.name}: the member {info.filename!r} is encrypted; store it without a password")
