"""Which checkpoints may be trusted, and in what order one becomes visible.

A checkpoint is written aside, made durable, given a manifest (size and SHA-256 of every file, step, attempt, digest of
the plan), renamed, and read back; only then may an older one go. A folder is loaded only when its manifest holds, so
nothing half-written, truncated or foreign ever reaches an unpickler. Must not know what the files mean.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_api.status import Checkpoint
from finetune_trainer.errors import InvalidSpecError, PreemptedError
from finetune_trainer.result import sync_directory, write_atomically

MANIFEST = "manifest.json"
LATEST = "LATEST"
PREFIX = "checkpoint-"
_STAGING = ".tmp-"
_REPLACED = ".old-"
_BLOCK = 1 << 20


class FileEntry(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Manifest(BaseModel):
    """What makes a folder a complete checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    attempt: int
    digest: str
    """Of plan, settings and rows: a checkpoint continues only the run that made it."""
    finished: bool
    """Whether training ended here, by its last step or by early stopping."""
    saved_at: str
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Found:
    """A checkpoint whose manifest holds."""

    path: Path
    manifest: Manifest

    @property
    def report(self) -> Checkpoint:
        """As it stands in status."""
        return Checkpoint(step=self.manifest.step, saved_at=self.manifest.saved_at, verified=True)


@dataclass
class CheckpointStore:
    """The checkpoints of one run, as one attempt sees them."""

    root: Path
    attempt: int
    digest: str
    keep: int
    """Complete checkpoints kept besides the protected ones."""
    confirm: Callable[[], None] = lambda: None
    """Called right before each commit; raises when this attempt has become a leftover."""
    refused: list[str] = field(default_factory=list)
    """Why folders that look newer were not used, by `newest`."""

    def newest(self) -> Found | None:
        """The newest checkpoint that verifies, else the next older one, else None; `refused` says what was passed over.

        Raises PreemptedError when a later attempt has written here, InvalidSpecError when it is of another plan.
        """
        self._refuse_later_attempts()
        self.refused = []
        for step in sorted(self.steps(), reverse=True):
            found = self.verified(step)
            if found is not None:
                return self._of_this_plan(found)
        return None

    def verified(self, step: int) -> Found | None:
        """The checkpoint of `step` when every byte of it is as its manifest says."""
        path = self.path(step)
        try:
            return Found(path, verify(path, step))
        except (OSError, ValueError) as error:
            self.refused.append(f"{path.name}: {error}")
            return None

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`, there or not."""
        return self.root / f"{PREFIX}{step}"

    def steps(self) -> list[int]:
        """Steps of all folders that are named like a checkpoint."""
        if not self.root.is_dir():
            return []
        names = (entry.name.removeprefix(PREFIX) for entry in self.root.iterdir() if entry.name.startswith(PREFIX))
        return [int(name) for name in names if name.isdigit()]

    def staging(self, step: int) -> Path:
        """An empty folder beside the checkpoints, in which the folder `checkpoint-<step>` is to be written."""
        folder = self.root / f"{_STAGING}{step}-{self.attempt}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit(self, step: int, *, finished: bool, protect: Collection[int] = ()) -> Found:
        """Make the staged checkpoint of `step` the newest one, and prune; `protect` names steps that must stay.

        Raises PreemptedError from a leftover attempt, OSError when the volume refuses it or returns it changed.
        """
        staged = self.root / f"{_STAGING}{step}-{self.attempt}" / f"{PREFIX}{step}"
        seal(staged, step=step, attempt=self.attempt, digest=self.digest, finished=finished)
        self._refuse_later_attempts()
        self.confirm()
        self._publish(staged, self.path(step))
        found = self._read_back(step)
        write_atomically(self.root / LATEST, f"{found.path.name}\n".encode())
        self.prune({step, *protect})
        return found

    def prune(self, protect: Collection[int] = ()) -> None:
        """Delete all but the `keep` newest complete checkpoints and the steps in `protect`."""
        complete = sorted((step for step in self.steps() if _looks_complete(self.path(step))), reverse=True)
        kept = {*complete[: self.keep], *protect}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.path(step), ignore_errors=True)

    def sweep(self) -> None:
        """Delete what attempts that are over left half-written."""
        if not self.root.is_dir():
            return
        for entry in self.root.iterdir():
            if entry.name.startswith((_STAGING, _REPLACED)):
                shutil.rmtree(entry, ignore_errors=True)

    def _publish(self, staged: Path, target: Path) -> None:
        if target.exists():
            # A refused checkpoint of this step: renaming it away keeps every moment of the exchange readable.
            target.rename(target.with_name(f"{_REPLACED}{target.name}-{self.attempt}"))
        staged.rename(target)
        sync_directory(self.root)
        self.sweep()

    def _read_back(self, step: int) -> Found:
        found = self.verified(step)
        if found is None:
            raise OSError(f"the volume returned other bytes than were written: {self.refused[-1]}")
        return found

    def _refuse_later_attempts(self) -> None:
        for step in self.steps():
            attempt = _attempt_of(self.path(step))
            if attempt > self.attempt:
                raise PreemptedError(
                    f"attempt {self.attempt} is a leftover: attempt {attempt} has saved the checkpoint of step {step}; "
                    "this one stops without writing anything"
                )

    def _of_this_plan(self, found: Found) -> Found:
        if found.manifest.digest == self.digest:
            return found
        raise InvalidSpecError(
            f"{found.path} belongs to another plan, setting or data than this run and cannot be continued with it; "
            f"create a new FineTuneJob, or delete {self.root} to train from the beginning"
        )


def seal(folder: Path, *, step: int, attempt: int, digest: str, finished: bool) -> Manifest:
    """Make every file of `folder` durable and write its manifest. Raises OSError."""
    files = {str(path.relative_to(folder)): _sealed(path) for path in _files(folder)}
    saved_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = Manifest(step=step, attempt=attempt, digest=digest, finished=finished, saved_at=saved_at, files=files)
    for directory in {path.parent for path in _files(folder)}:
        sync_directory(directory)
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def verify(folder: Path, step: int) -> Manifest:
    """The manifest of `folder` when it holds in full. Raises OSError or ValueError that says what is wrong."""
    manifest = _manifest(folder)
    if manifest.step != step:
        raise ValueError(f"{MANIFEST} is of step {manifest.step}")
    present = {str(path.relative_to(folder)) for path in _files(folder)} - {MANIFEST}
    if present != set(manifest.files):
        odd = sorted(present.symmetric_difference(manifest.files))
        raise ValueError(f"files differ from {MANIFEST}: {', '.join(odd[:3])}")
    for name, entry in manifest.files.items():
        _check(folder / name, entry)
    return manifest


def digest_of(document: object) -> str:
    """sha256:<hex> over a JSON document, the same for equal ones."""
    return f"sha256:{hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()}"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(f"no {MANIFEST}: it was never completed")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{MANIFEST} cannot be read: {error.errors()[0]['msg']}") from None


def _attempt_of(folder: Path) -> int:
    try:
        return _manifest(folder).attempt
    except (OSError, ValueError):
        return 0


def _looks_complete(folder: Path) -> bool:
    """Manifest and sizes only: enough to count, while loading always verifies in full."""
    try:
        files = _manifest(folder).files
        return all((folder / name).stat().st_size == entry.size for name, entry in files.items())
    except (OSError, ValueError):
        return False


def _check(path: Path, entry: FileEntry) -> None:
    if path.is_symlink():
        raise ValueError(f"{path.name} is a symbolic link")
    size = path.stat().st_size
    if size != entry.size:
        raise ValueError(f"{path.name} has {size} bytes in place of {entry.size}")
    if file_sha256(path) != entry.sha256:
        raise ValueError(f"{path.name} has another SHA-256 than when it was written")


def _sealed(path: Path) -> FileEntry:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileEntry(size=path.stat().st_size, sha256=file_sha256(path))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
