"""Puts artefacts where users find them: whole or not at all, never over somebody else's.

An artefact is written beside its final place, made durable and renamed into it. A destination belongs to the job
whose uid is in its report.json, which is written before anything else; a job may replace its own artefacts and
nothing besides.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.adapters import adapter_specs
from finetune_trainer.errors import OutputUnwritableError, StageError
from finetune_trainer.ownership import own_folder
from finetune_trainer.result import sync_directory
from finetune_trainer.run import Run

REPORT = "report.json"
CARD = "README.md"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}


class Destination:
    """The folder that receives a job's artefacts, with its URI."""

    def __init__(self, run: Run) -> None:
        self._job = run.request.job
        asked = run.spec.output.destination
        self.folder: Path = run.local_path(asked) if asked else run.workspace.artifacts
        self.uri = asked.rstrip("/") if asked else workspace_uri(run)
        self.field = "output.destination" if asked else "output.workspace.size"

    @property
    def report(self) -> Path:
        """File with the whole story, and the mark of the job that owns the folder."""
        return self.folder / REPORT

    def check(self, names: list[str]) -> None:
        """Raise OutputUnwritableError when the folder holds what this job did not put there and would overwrite."""
        owner = self.owner()
        if owner == self._job.uid:
            return
        if owner is not None:
            self._refuse(f"{self.report} belongs to another job")
        for name in [REPORT, CARD, *names]:
            if (self.folder / name).exists():
                self._refuse(f"{self.folder / name} exists and is not this job's")

    def owner(self) -> str | None:
        """uid of the job that published here, or None."""
        try:
            return str(json.loads(self.report.read_bytes())["job"]["uid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _refuse(self, cause: str) -> None:
        raise OutputUnwritableError(
            f"output.destination {self.uri}: {cause}; choose a folder of its own for {self._job.name}, "
            "or delete what is there"
        )

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """An empty folder on the destination's volume; gone again when the block ends without `publish`."""
        folder = self.folder / f"{self._prefix}{name}"
        remove(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            remove(folder)

    def publish(self, staged: Path, name: str) -> Path:
        """Make `staged` durable and give it its name; what this job had there before is replaced."""
        _sync_tree(staged)
        target, old = self.folder / name, self.folder / f"{self._prefix}{name}.old"
        if target.exists():
            remove(old)
            target.rename(old)
        staged.rename(target)
        sync_directory(self.folder)
        remove(old)
        return target

    def remove_leftovers(self) -> None:
        """Delete what an earlier call of this job left behind when it was killed."""
        for path in self.folder.glob(f"{self._prefix}*"):
            remove(path)

    @property
    def _prefix(self) -> str:
        return f".partial-{self._job.uid}-"


def check_destination(run: Run) -> None:
    """For prepare: say at once what export would refuse after hours of training. Raises OutputUnwritableError."""
    parts = [*adapter_specs(run.spec).values()] or [run.spec]
    Destination(run).check([export.name for part in parts for export in part.exports])


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
