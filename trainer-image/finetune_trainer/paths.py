"""Opening what a user names, and nothing beside it: every path stays inside the folder that it was given for."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from finetune_trainer.errors import SourceNotFoundError
from finetune_trainer.run import Run

_LISTED = 8


def claim_root(run: Run, uri: str) -> Path:
    """Folder where the claim of `uri` (pvc://claim/path) is mounted. Raises SourceNotFoundError."""
    claim = uri.removeprefix("pvc://").partition("/")[0]
    root = run.claim_path(claim)
    if not root.is_dir():
        raise SourceNotFoundError(f"{uri}: the claim {claim!r} is not mounted here (no folder {root})")
    return root


def claimed_path(run: Run, uri: str) -> Path:
    """The existing file or folder that `uri` (pvc://claim/path) names.

    Raises SourceNotFoundError when it is absent or a link that leaves the claim; the message says what is there.
    """
    root = claim_root(run, uri)
    path = run.local_path(uri)
    if not path.exists():
        raise SourceNotFoundError(f"{uri} does not exist; {_nearest(path, root)}")
    if not is_inside(path, root):
        raise SourceNotFoundError(f"{uri} is a symbolic link that leaves its claim; copy the files into the claim")
    return path


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path`, with every link followed, lies in `root`."""
    return path.resolve().is_relative_to(root.resolve())


def listing(folder: Path) -> str:
    """What `folder` holds, shortened, for a message."""
    return shortened(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())


def shortened(names: Iterable[str]) -> str:
    """`names` in their order, at most some of them, for a message."""
    found = sorted(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more if found else "nothing"


def _nearest(path: Path, root: Path) -> str:
    """What is there in place of `path`: the closest existing folder, and the names most like the missing one."""
    missing = path
    while not missing.parent.exists() and missing.parent != root:
        missing = missing.parent
    folder = missing.parent
    place = f"folder {folder.relative_to(root)}" if folder != root else "the claim"
    try:
        held = listing(folder)
        similar = get_close_matches(missing.name, [entry.name for entry in folder.iterdir()], n=1, cutoff=0.5)
    except OSError as error:
        return f"{place} cannot be read: {error.strerror}"
    return f"{place} holds {held}" + (f"; did you mean {similar[0]}?" if similar else "")
