"""Which folder of a volume belongs to a job, and which attempt at a stage may write there.

A claim of the job's own is used at its root. On a claim that another job or a person already uses, the job works in
`job-<uid>`, so nothing of anybody else is ever read or written. Of two attempts at one stage the lower is a leftover
(a pod on a lost node, a second pod of one index) and must stop before it commits anything.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune_api.contract import StageRequest
from finetune_api.status import Stage
from finetune_trainer.errors import PreemptedError
from finetune_trainer.result import write_atomically

OWNER_FILE = "owner.json"
_FRESH_VOLUME = ("lost+found",)


def own_folder(uid: str) -> str:
    """Name of the folder of job `uid` on a volume that others use too."""
    return f"job-{uid}"


def job_folder(volume: Path, uid: str) -> Path:
    """The folder of job `uid` on `volume`, created and marked as its own; the same at every call."""
    volume.mkdir(parents=True, exist_ok=True)
    own = volume / own_folder(uid)
    if own.is_dir():
        return own
    if _owner(volume) == uid or (_is_fresh(volume) and _claim(volume, uid) == uid):
        return volume
    own.mkdir(exist_ok=True)
    _claim(own, uid)
    return own


def _owner(folder: Path) -> str | None:
    try:
        document = json.loads((folder / OWNER_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return document.get("jobUid") if isinstance(document, dict) else None


def _is_fresh(volume: Path) -> bool:
    return all(entry.name in _FRESH_VOLUME for entry in volume.iterdir())


def _claim(folder: Path, uid: str) -> str | None:
    """Mark `folder` as `uid`'s unless somebody was first; returns who owns it then.

    A crash between the two system calls leaves a mark without a name: the job then takes a folder of its own.
    """
    try:
        with (folder / OWNER_FILE).open("x") as file:
            json.dump({"jobUid": uid}, file)
    except FileExistsError:
        pass
    return _owner(folder)


def enter_attempt(folder: Path, request: StageRequest) -> None:
    """Record that this attempt works on the stage now. Raises PreemptedError when a later one already does."""
    path = _attempt_file(folder, request.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        _refuse_leftover(path, request)
        write_atomically(path, str(request.attempt).encode())


def confirm_attempt(folder: Path, request: StageRequest) -> None:
    """To be called right before a commit. Raises PreemptedError when a later attempt has started meanwhile."""
    _refuse_leftover(_attempt_file(folder, request.stage), request)


def _refuse_leftover(path: Path, request: StageRequest) -> None:
    highest = int(path.read_text()) if path.exists() else 0
    if highest > request.attempt:
        raise PreemptedError(
            f"attempt {request.attempt} at stage {request.stage} is a leftover: attempt {highest} has started; "
            "this one stops without writing anything"
        )


def _attempt_file(folder: Path, stage: Stage) -> Path:
    return folder / "attempts" / stage


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with suppress(OSError):  # some network volumes have no locks; the check before each commit remains
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
