"""Puts artefacts where users find them: whole or not at all, never over somebody else's.

A destination belongs to the job whose uid is in its report.json, which is written before anything else; a job may
replace its own artefacts and nothing besides. In a folder an artefact is written beside its final place, made durable
and renamed into it; buckets.py says how a bucket gets one.
"""

import errno
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from finetune_trainer.errors import OutputUnwritableError, StageError
from finetune_trainer.exporting.digests import FileRecord, list_files
from finetune_trainer.ownership import own_folder
from finetune_trainer.result import sync_directory, write_atomically
from finetune_trainer.run import Run

REPORT = "report.json"
CARD = "README.md"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}


class Destination(ABC):
    """What receives a job's artefacts: a folder, or a prefix of a bucket."""

    def __init__(self, run: Run, uri: str) -> None:
        self._job = run.request.job
        self.uri = uri

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Content of the file `name` at the top; None when there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file at the top; a reader finds the old one or the new one, never a part."""

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether a file or folder `name` is there."""

    @abstractmethod
    def files(self, name: str) -> list[FileRecord]:
        """What lies in folder `name`, read anew; empty when there is none."""

    @abstractmethod
    def opened(self) -> AbstractContextManager[None]:
        """Make ready to publish: what an earlier call of this job left behind is removed, a full volume is named."""

    @abstractmethod
    def staged(self, name: str) -> AbstractContextManager[Path]:
        """An empty folder to write artefact `name` in; gone again when the block ends."""

    @abstractmethod
    def publish(self, staged: Path, name: str) -> None:
        """Make `staged` durable under its name; what this job had there before is replaced."""

    def check(self, names: list[str]) -> None:
        """Raise OutputUnwritableError when this job would overwrite what it did not put there."""
        owner = self.owner()
        if owner == self._job.uid:
            return
        if owner is not None:
            self._refuse(f"{self._place(REPORT)} belongs to another job")
        for name in [REPORT, CARD, *names]:
            if self.holds(name):
                self._refuse(f"{self._place(name)} exists and is not this job's")

    def owner(self) -> str | None:
        """uid of the job that published here, or None."""
        try:
            return str(json.loads(self.read(REPORT) or b"")["job"]["uid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _place(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def _refuse(self, cause: str) -> None:
        raise OutputUnwritableError(
            f"output.destination {self.uri}: {cause}; choose a folder of its own for {self._job.name}, "
            "or delete what is there"
        )


class FolderDestination(Destination):
    """A folder of a claim, or of the job's own workspace."""

    def __init__(self, run: Run) -> None:
        asked = run.spec.output.destination
        super().__init__(run, asked.rstrip("/") if asked else workspace_uri(run))
        self.folder: Path = run.local_path(asked) if asked else run.workspace.artifacts
        self.field = "output.destination" if asked else "output.workspace.size"

    @property
    def report(self) -> Path:
        """File with the whole story, and the mark of the job that owns the folder."""
        return self.folder / REPORT

    def read(self, name: str) -> bytes | None:
        """Content of the file `name`; None when there is none."""
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """Write the file and make it durable."""
        write_atomically(self.folder / name, content)

    def holds(self, name: str) -> bool:
        """Whether a file or folder `name` is there."""
        return (self.folder / name).exists()

    def files(self, name: str) -> list[FileRecord]:
        """What lies in folder `name`."""
        return list_files(self.folder / name)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The folder, made where it is missing, without what an earlier call of this job left."""
        with writing(self.field, self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove_leftovers()
            yield

    def _place(self, name: str) -> str:
        return str(self.folder / name)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """An empty folder on the destination's volume; gone again when the block ends without `publish`."""
        with emptied(self.folder / f"{self._prefix}{name}") as folder:
            yield folder

    def publish(self, staged: Path, name: str) -> None:
        """Make `staged` durable and give it its name; what this job had there before is replaced."""
        _sync_tree(staged)
        target, old = self.folder / name, self.folder / f"{self._prefix}{name}.old"
        if target.exists():
            remove(old)
            target.rename(old)
        staged.rename(target)
        sync_directory(self.folder)
        remove(old)

    def remove_leftovers(self) -> None:
        """Delete what an earlier call of this job left behind when it was killed."""
        for path in self.folder.glob(f"{self._prefix}*"):
            remove(path)

    @property
    def _prefix(self) -> str:
        return f".partial-{self._job.uid}-"


def workspace_uri(run: Run) -> str:
    """pvc:// URI of the artefacts in the job's own workspace."""
    claim = run.spec.output.workspace.claim_name or f"{run.request.job.name}-workspace"
    shared = own_folder(run.request.job.uid) if run.workspace.root.name == own_folder(run.request.job.uid) else ""
    return "/".join(part for part in (f"pvc://{claim}", shared, run.workspace.artifacts.name) if part)


@contextmanager
def writing(field: str, folder: Path) -> Iterator[None]:
    """Turn a full, read-only or absent volume into OutputUnwritableError that names `field`."""
    try:
        yield
    except Exception as error:
        if (cause := _unwritable(error)) is None:
            raise
        raise OutputUnwritableError(f"{field}: {folder} {cause} ({error})") from error


def _unwritable(error: Exception) -> str | None:
    if isinstance(error, StageError):
        return None
    number = getattr(error, "errno", None)
    # safetensors and onnx report a full disk through classes of their own.
    if number in _FULL or any(text in str(error) for text in _FULL_TEXTS):
        return "is full: free space on the volume or take a larger one"
    if isinstance(error, OSError) and number in _REFUSED and error.filename:
        return "cannot be written: mount it writable for the pod's user"
    return None


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, which is gone again after the block; what an earlier call left in it is removed first."""
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def remove(path: Path) -> None:
    """Delete a folder with all it holds, or a file; nothing when there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(folder)
