"""What lies in an artefact's folder: files with sizes and sha256, and one digest over all. Reads only."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileRecord:
    """One file of an artefact."""

    name: str
    """Path inside the artefact's folder."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""

    def to_json(self) -> dict[str, Any]:
        """As written into report.json."""
        return asdict(self)


def list_files(folder: Path) -> list[FileRecord]:
    """Every file below `folder`, sorted by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [FileRecord(p.relative_to(folder).as_posix(), p.stat().st_size, file_sha256(p)) for p in paths]


def digest(files: Sequence[FileRecord]) -> str:
    """sha256:<hex> over `<sha256>  <name>` lines sorted by name, as sha256sum prints them."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(files, key=lambda f: f.name))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
