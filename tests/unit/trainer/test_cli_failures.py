import errno
from pathlib import Path

import pytest

from finetune_api.conditions import Reason
from finetune_api.contract import parse_result
from finetune_api.exit_codes import ExitCode
from finetune_api.status import Artifact, Evaluation, Stage
from finetune_trainer import errors
from finetune_trainer.failures import Failure, failure_of

WORKSPACE = Path("/workspace")


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (errors.InvalidDataError("x"), ExitCode.INVALID_DATA),
        (errors.PreemptedError("x"), ExitCode.PREEMPTED),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("shapes differ"), ExitCode.CRASHED),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.OUTPUT_UNWRITABLE),
        (OSError(errno.EROFS, "Read-only file system", "/workspace/plan.json"), ExitCode.OUTPUT_UNWRITABLE),
        (PermissionError(errno.EACCES, "Permission denied", "/workspace/data"), ExitCode.OUTPUT_UNWRITABLE),
        (PermissionError(errno.EACCES, "Permission denied", "/mnt/claims/data"), ExitCode.CRASHED),
        (Exception("I/O error: No space left on device (os error 28)"), ExitCode.OUTPUT_UNWRITABLE),
        (KeyError("x"), ExitCode.CRASHED),
    ],
)
def test_an_exception_means_an_exit_code(error: BaseException, want: ExitCode) -> None:
    assert failure_of(error, WORKSPACE).exit_code == want


def test_the_cause_behind_a_wrapped_exception_counts() -> None:
    wrapped = RuntimeError("while writing rows")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failure_of(wrapped, WORKSPACE).exit_code == ExitCode.OUTPUT_UNWRITABLE


def test_an_unexpected_exception_names_its_type_and_place() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    failure = failure_of(caught.value, WORKSPACE)
    assert failure.message.startswith("ZeroDivisionError: division by zero (test_cli_failures.py:")


def test_preemption_is_an_outcome_of_its_own() -> None:
    assert failure_of(errors.PreemptedError("saved"), WORKSPACE).outcome == "Preempted"
    assert failure_of(errors.InvalidDataError("bad"), WORKSPACE).outcome == "Failed"


def test_a_long_message_still_fits_into_the_termination_log() -> None:
    failure = failure_of(ValueError("x" * 20_000), WORKSPACE)
    result = failure.result(Stage.TRAIN)
    assert len(result.message) == 1024
    assert parse_result(result.termination_message()) is not None


def test_every_stage_error_keeps_its_own_code_and_reason() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and value is not errors.StageError]
    failures: list[Failure] = [
        failure_of(cls("why"), WORKSPACE) for cls in classes if issubclass(cls, errors.StageError)
    ]
    assert len({failure.exit_code for failure in failures}) == len(failures)
    assert all(failure.message == "why" for failure in failures)


def test_what_was_published_before_a_failure_is_told(tmp_path: Path) -> None:
    error = errors.ParityError("export cpu-int4: parity.maxKl 0.3, the limit is 0.02")
    error.artifacts = [
        Artifact(name="adapter", format="peft", uri="pvc://out/adapter", size_bytes=7, digest="sha256:0")
    ]
    assert failure_of(error, tmp_path).result(Stage.EXPORT).artifacts == error.artifacts


def test_an_unmet_gate_keeps_the_numbers_it_was_judged_by(tmp_path: Path) -> None:
    evaluation = Evaluation(rows=5, baseline={"exact-match": 0.0}, tuned={"exact-match": 0.2})
    result = failure_of(errors.GateUnmetError("exact-match 0.2, at least 0.5", evaluation), tmp_path).result(
        Stage.EVALUATE
    )
    assert (result.reason, result.evaluation) == (Reason.GATE_UNMET, evaluation)
