"""Which data files a source means, and how each is read: row by row where its format allows it.

Decides the reader by the file's extension and the split by its name. Must not judge what a row says (examples.py).
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from finetune_trainer.data.compression import COMPRESSIONS, DataFile, archived
from finetune_trainer.data.readers import FORMATS
from finetune_trainer.data.records import Record
from finetune_trainer.data.slices import DEFAULT_SPLIT, Slice
from finetune_trainer.errors import InvalidDataError, SourceNotFoundError
from finetune_trainer.paths import is_inside, listing

UNREAD_ARCHIVES = (".tar", ".tgz", ".7z", ".rar", ".lz4")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in file names that mark a split, as the datasets library knows them."""
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def data_files(path: Path, root: Path, uri: str, split: str) -> list[DataFile]:
    """The files of split `split` at `path` (a file, an archive, or a folder of both), sorted; all inside `root`.

    Raises SourceNotFoundError or InvalidDataError, saying what the folder holds.
    """
    if path.is_file():
        opened = _opened(path, root, uri)
        return _checked(_of_split(opened, split, uri) if path.suffix.lower() == ".zip" else [opened[""]], uri)
    found = sorted(file for file in path.rglob("*") if file.is_file() and is_data_name(str(file.relative_to(path))))
    if not found:
        _refuse_folder(path, uri)
    opened = {
        f"{file.relative_to(path)}/{member}".rstrip("/"): opened
        for file in found
        for member, opened in _opened(file, root, uri).items()
    }
    return _checked(_of_split(opened, split, uri), uri)


def names_of_split(names: list[str], split: str, uri: str) -> list[str]:
    """Those of the relative paths `names` that may hold rows of split `split`: archives are looked into later.

    Raises SourceNotFoundError.
    """
    data = [name for name in names if is_data_name(name)]
    if not data:
        raise SourceNotFoundError(f"{uri} holds no data file ({_kinds()}); it holds {', '.join(names[:8])}")
    archives = [name for name in data if PurePosixPath(name).suffix.lower() == ".zip"]
    plain = [name for name in data if name not in archives]
    return [*archives, *(of_split(plain, split, uri) if plain and not archives else plain)]


def read_files(files: list[DataFile], part: Slice) -> Iterator[Record]:
    """The rows of `files` in order, cut to `part`. Numbers stay those of the whole file."""
    if part.whole:
        return _all(files)
    start, stop = part.bounds(sum(1 for _ in _all(files))) if part.needs_total() else _plain_bounds(part)
    return islice(_all(files), start, stop)


def content_digest(files: Sequence[DataFile]) -> str:
    """sha256 over names and stored bytes of `files`, in their order."""
    total = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as content:
            total.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def stored_as(files: Sequence[DataFile]) -> str:
    """How the rows of `files` are stored, as in `JSON Lines, gzip`; several ways are joined by `and`."""
    return " and ".join(dict.fromkeys(_stored_as(file) for file in files))


def is_data_name(name: str) -> bool:
    """Whether the relative path `name` is that of a data file, by its extension."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    if hidden or path.name in _DESCRIPTIONS:
        return False
    suffix = path.suffix.lower()
    return suffix == ".zip" or DataFile(Path(path)).format in FORMATS


def of_split(names: Sequence[str], split: str, uri: str) -> list[str]:
    """Those of `names`, relative paths of data files, that hold split `split`. Raises SourceNotFoundError."""
    marked = {name: _split_of(name) for name in names}
    wanted = _split_of(split) or split
    chosen = [name for name in names if marked[name] == wanted or _has_word(name, (split,))]
    if not chosen and split == DEFAULT_SPLIT:
        chosen = [name for name in names if marked[name] is None]
    if not chosen:
        raise SourceNotFoundError(
            f"{uri} has no file of split {split!r}; it holds {', '.join(names[:8])}: name one of them, or a split"
        )
    return chosen


def _of_split(files: dict[str, DataFile], split: str, uri: str) -> list[DataFile]:
    return [files[name] for name in of_split([*files], split, uri)]


def _stored_as(file: DataFile) -> str:
    name = FORMATS[file.format].name
    return f"{name}, {COMPRESSIONS[file.compression]}" if file.compression else name


def _plain_bounds(part: Slice) -> tuple[int, int | None]:
    start = int(part.start or 0)
    return start, None if part.stop is None else max(start, int(part.stop))


def _all(files: list[DataFile]) -> Iterator[Record]:
    for file in files:
        yield from FORMATS[file.format].read(file)


def _opened(path: Path, root: Path, uri: str) -> dict[str, DataFile]:
    """The file at `path` under an empty name, or the data files in the archive there under theirs."""
    if path.suffix.lower() in UNREAD_ARCHIVES:
        raise InvalidDataError(f"{uri}: {path.name} is not read; unpack it, or store rows as .jsonl, .jsonl.gz or .zip")
    if not is_inside(path, root):
        raise SourceNotFoundError(f"{uri}: {path.name} is a symbolic link that leaves its claim; copy the file")
    if path.stat().st_size == 0:
        raise InvalidDataError(f"{uri}: {path.name} is empty")
    if path.suffix.lower() != ".zip":
        return {"": DataFile(path)}
    members = {file.member: file for file in archived(path) if file.format in FORMATS and is_data_name(file.member)}
    if not members:
        raise SourceNotFoundError(f"{uri}: {path.name} holds no data file ({_kinds()})")
    return members


def _checked(files: list[DataFile], uri: str) -> list[DataFile]:
    for file in files:
        if file.format not in FORMATS:
            inner = " inside" if file.compression else ""
            raise InvalidDataError(f"{uri}: {file.name} is not {_kinds()}{inner}; rename or convert it")
        if FORMATS[file.format].text:
            file.refuse_other_kind()
        elif file.compression:
            raise InvalidDataError(
                f"{uri}: {file.name}: {FORMATS[file.format].name} is compressed by itself; store it without "
                f"{COMPRESSIONS[file.compression]}"
            )
    return files


def _split_of(name: str) -> str | None:
    return next((split for split, words in SPLIT_WORDS.items() if _has_word(name, words)), None)


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(^|[^a-z0-9]){re.escape(word.lower())}([^a-z]|$)", name.lower()) for word in words)


def _refuse_folder(path: Path, uri: str) -> None:
    archive = next((file.name for file in path.rglob("*") if file.suffix.lower() in UNREAD_ARCHIVES), None)
    if archive:
        raise InvalidDataError(f"{uri}: {archive} is not read; unpack it, or store rows as .jsonl, .jsonl.gz or .zip")
    raise SourceNotFoundError(f"{uri} holds no data file ({_kinds()}); it holds {listing(path)}")


def _kinds() -> str:
    return f"{', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}"
