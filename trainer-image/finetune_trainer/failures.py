"""Which exit code, reason and message an exception means.

Decides the cause and nothing else; must not write or retry anything. Looks at class names in place of classes where
importing a library only for its exceptions would cost seconds.
"""

import errno
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api.conditions import Reason
from finetune_api.contract import StageResult
from finetune_api.exit_codes import REASON_OF, ExitCode
from finetune_api.status import Artifact, Evaluation, Stage
from finetune_trainer.errors import PreemptedError, StageError

MESSAGE_LIMIT = 1024
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
_FULL = ("No space left on device", "Read-only file system", "Disk quota exceeded")


@dataclass(frozen=True)
class Failure:
    """What a stage that did not succeed ends with."""

    exit_code: int
    reason: Reason
    message: str
    outcome: Literal["Failed", "Preempted"] = "Failed"
    evaluation: Evaluation | None = None
    artifacts: Sequence[Artifact] = ()

    def result(self, stage: Stage) -> StageResult:
        """The result to announce."""
        return StageResult(
            stage=stage,
            outcome=self.outcome,
            reason=self.reason,
            message=shortened(self.message),
            evaluation=self.evaluation,
            artifacts=list(self.artifacts),
        )


def failure_of(error: BaseException, workspace: Path) -> Failure:
    """The failure that `error` means in a stage that works in `workspace`."""
    if isinstance(error, StageError):
        outcome: Literal["Failed", "Preempted"] = "Preempted" if isinstance(error, PreemptedError) else "Failed"
        return Failure(error.exit_code, error.reason, str(error), outcome, error.evaluation, error.artifacts)
    for cause in _causes(error):
        if _is_out_of_memory(cause):
            return _failure(ExitCode.OUT_OF_MEMORY, _out_of_memory_message(cause))
        if _is_unwritable(cause, workspace):
            return _failure(ExitCode.OUTPUT_UNWRITABLE, _unwritable_message(cause, workspace))
    return _failure(ExitCode.CRASHED, f"{type(error).__name__}: {error} ({_place(error)})")


def shortened(message: str) -> str:
    """`message` within the limit of a StageResult."""
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 3] + "..."


def _failure(code: ExitCode, message: str) -> Failure:
    return Failure(code, REASON_OF[code], message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def _is_unwritable(error: BaseException, workspace: Path) -> bool:
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE:
        # safetensors and Arrow report a full volume through their own classes, without errno.
        return any(text in str(error) for text in _FULL)
    if error.errno in (errno.EACCES, errno.EPERM):
        return error.filename is not None and Path(str(error.filename)).is_relative_to(workspace)
    return True


def _out_of_memory_message(error: BaseException) -> str:
    detail = str(error).partition("\n")[0] or "malloc failed"
    return (
        f"no memory left: {detail}. Raise resources.memory (or take a larger accelerator), "
        "or lower training.microBatchSize or dataset.maxLength"
    )


def _unwritable_message(error: BaseException, workspace: Path) -> str:
    return (
        f"cannot write: {error}. The workspace is {workspace}: raise output.workspace.size, "
        "free the volume, or mount it writable for the pod's user"
    )


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "no traceback"
    ours = [frame for frame in frames if "finetune_trainer" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
