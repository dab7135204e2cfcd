"""Why a stage failed. Each class knows its exit code and reason, so that a cause is named once.

StageError
├── InvalidSpecError        the spec contradicts itself or the installed libraries
├── NotSupportedError       a field that this version cannot honour
├── InvalidDataError        rows that cannot be used, or none left
├── InvalidModelError       a refused file, a wrong format, an unknown architecture
├── SourceNotFoundError     a model or a file that is not there
├── SourceUnavailableError  a hub or store that did not answer
├── InsufficientMemoryError the estimate exceeds the pod
├── OutOfMemoryError        an allocator had no memory left
├── NonFiniteLossError      NaN or infinity in loss or gradient
├── LearnedNothingError     unchanged, empty or non-finite weights
├── StrategyMismatchError   the strategy that runs is not the one asked for
├── ParityError             an export that computes something else
├── GateUnmetError          a bar of the evaluation that is not cleared
├── OutputUnwritableError   a full or read-only volume, a bucket that may not be written
├── TrainerTooOldError      a request from a newer operator
└── PreemptedError          asked to stop; a checkpoint is saved
"""

from collections.abc import Sequence

from finetune_api.conditions import Reason
from finetune_api.exit_codes import REASON_OF, ExitCode
from finetune_api.status import Artifact, Evaluation


class StageError(Exception):
    """A stage ended with a cause that a user can act on; the message names file, field or line and the way out."""

    exit_code: ExitCode = ExitCode.CRASHED
    evaluation: Evaluation | None = None
    """Numbers that were measured before it ended."""
    artifacts: Sequence[Artifact] = ()
    """What was published before it ended, and stays."""

    @property
    def reason(self) -> Reason:
        """Reason of the condition that the operator writes."""
        return REASON_OF[self.exit_code]


class InvalidSpecError(StageError):
    """The spec contradicts itself or the installed libraries."""

    exit_code = ExitCode.INVALID_SPEC


class NotSupportedError(StageError):
    """A field that this version cannot honour."""

    exit_code = ExitCode.NOT_SUPPORTED


class InvalidDataError(StageError):
    """Rows that cannot be used, or none left."""

    exit_code = ExitCode.INVALID_DATA


class InvalidModelError(StageError):
    """A refused file, a wrong format, an unknown architecture."""

    exit_code = ExitCode.INVALID_MODEL


class SourceNotFoundError(StageError):
    """A model or a file that is not there."""

    exit_code = ExitCode.SOURCE_NOT_FOUND


class SourceUnavailableError(StageError):
    """A hub or store that did not answer."""

    exit_code = ExitCode.SOURCE_UNAVAILABLE


class InsufficientMemoryError(StageError):
    """The estimate exceeds the pod."""

    exit_code = ExitCode.INSUFFICIENT_MEMORY


class OutOfMemoryError(StageError):
    """An allocator had no memory left."""

    exit_code = ExitCode.OUT_OF_MEMORY


class NonFiniteLossError(StageError):
    """NaN or infinity in loss or gradient."""

    exit_code = ExitCode.NON_FINITE_LOSS


class LearnedNothingError(StageError):
    """Unchanged, empty or non-finite weights."""

    exit_code = ExitCode.LEARNED_NOTHING


class StrategyMismatchError(StageError):
    """The strategy that runs is not the one asked for."""

    exit_code = ExitCode.STRATEGY_MISMATCH


class ParityError(StageError):
    """An export that computes something else."""

    exit_code = ExitCode.PARITY_FAILED


class GateUnmetError(StageError):
    """A bar of the evaluation that is not cleared; carries the numbers, which belong into the result all the same."""

    exit_code = ExitCode.GATE_UNMET

    def __init__(self, message: str, evaluation: Evaluation | None = None) -> None:
        super().__init__(message)
        self.evaluation = evaluation


class OutputUnwritableError(StageError):
    """A full or read-only volume, a bucket that may not be written, or a destination that is somebody else's."""

    exit_code = ExitCode.OUTPUT_UNWRITABLE


class TrainerTooOldError(StageError):
    """A request from a newer operator."""

    exit_code = ExitCode.TRAINER_TOO_OLD


class PreemptedError(StageError):
    """Asked to stop; a checkpoint is saved."""

    exit_code = ExitCode.PREEMPTED
