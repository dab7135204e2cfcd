"""Which data files a pvc:// source means, and how each is read: row by row where its format allows it.

Decides the reader by the file's extension and the split by its name. Must not judge what a row says (rows.py).
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from finetune_trainer.data.readers import READERS
from finetune_trainer.data.records import Record
from finetune_trainer.data.slices import DEFAULT_SPLIT, Slice
from finetune_trainer.errors import InvalidDataError, SourceNotFoundError
from finetune_trainer.paths import is_inside, listing

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".lz4")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in file names that mark a split, as the datasets library knows them."""


def data_files(path: Path, root: Path, uri: str, split: str) -> list[Path]:
    """The files of split `split` at `path` (a file, or a folder of files), sorted; all inside `root`.

    Raises SourceNotFoundError or InvalidDataError, saying what the folder holds.
    """
    if path.is_file():
        _require_readable(path, root, uri)
        return [path]
    found = sorted(file for file in path.rglob("*") if _is_data(file, path))
    if not found:
        _refuse_folder(path, uri)
    chosen = _of_split(found, path, split)
    if not chosen:
        names = ", ".join(str(file.relative_to(path)) for file in found[:8])
        raise SourceNotFoundError(
            f"{uri} has no file of split {split!r}; it holds {names}: name one of them, or a split"
        )
    for file in chosen:
        _require_readable(file, root, uri)
    return chosen


def read_files(files: list[Path], part: Slice) -> Iterator[Record]:
    """The rows of `files` in order, cut to `part`. Numbers stay those of the whole file."""
    if part.whole:
        return _all(files)
    start, stop = part.bounds(sum(1 for _ in _all(files))) if part.needs_total() else _plain_bounds(part)
    return islice(_all(files), start, stop)


def _plain_bounds(part: Slice) -> tuple[int, int | None]:
    start = int(part.start or 0)
    return start, None if part.stop is None else max(start, int(part.stop))


def _all(files: list[Path]) -> Iterator[Record]:
    for file in files:
        yield from READERS[file.suffix.lower()](file)


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    described = file.name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
    return not hidden and not described and file.is_file() and file.suffix.lower() in READERS


def _of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    marked = {file: _split_of(str(file.relative_to(folder))) for file in files}
    wanted = _split_of(split) or split
    chosen = [file for file in files if marked[file] == wanted or _has_word(str(file.relative_to(folder)), (split,))]
    if not chosen and split == DEFAULT_SPLIT:
        return [file for file in files if marked[file] is None]
    return chosen


def _split_of(name: str) -> str | None:
    return next((split for split, words in SPLIT_WORDS.items() if _has_word(name, words)), None)


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(^|[^a-z0-9]){re.escape(word.lower())}([^a-z]|$)", name.lower()) for word in words)


def _require_readable(file: Path, root: Path, uri: str) -> None:
    suffix = file.suffix.lower()
    if suffix in COMPRESSED:
        raise InvalidDataError(f"{uri}: {file.name} is compressed, and only plain files are read; uncompress it first")
    if suffix not in READERS:
        raise InvalidDataError(f"{uri}: {file.name} is not {_kinds()}; rename or convert it")
    if not is_inside(file, root):
        raise SourceNotFoundError(f"{uri}: {file.name} is a symbolic link that leaves its claim; copy the file")
    if file.stat().st_size == 0:
        raise InvalidDataError(f"{uri}: {file.name} is empty")


def _refuse_folder(path: Path, uri: str) -> None:
    compressed = next((file.name for file in path.rglob("*") if file.suffix.lower() in COMPRESSED), None)
    if compressed:
        raise InvalidDataError(f"{uri}: {compressed} is compressed, and only plain files are read; uncompress it first")
    raise SourceNotFoundError(f"{uri} holds no data file ({_kinds()}); it holds {listing(path)}")


def _kinds() -> str:
    return f"{', '.join([*READERS][:-1])} or {[*READERS][-1]}"
