"""Exit codes of the trainer: how a pod tells its cause even when its termination message is lost.

The numbers follow BSD sysexits where one fits. Below 64 nothing is ours; 128+n is a signal.
"""

from enum import IntEnum

from finetune_api.conditions import Reason


class ExitCode(IntEnum):
    """What a stage's process ends with."""

    DONE = 0
    CRASHED = 1
    INVALID_SPEC = 64
    INVALID_DATA = 65
    SOURCE_NOT_FOUND = 66
    INVALID_MODEL = 67
    INSUFFICIENT_MEMORY = 68
    SOURCE_UNAVAILABLE = 69
    NON_FINITE_LOSS = 70
    LEARNED_NOTHING = 71
    PARITY_FAILED = 72
    OUTPUT_UNWRITABLE = 73
    STRATEGY_MISMATCH = 74
    PREEMPTED = 75
    TRAINER_TOO_OLD = 76
    GATE_UNMET = 77
    NOT_SUPPORTED = 78
    OUT_OF_MEMORY = 79
    """The accelerator's allocator, or malloc, had no memory left; the kernel's own verdict is 137."""
    KILLED = 137
    TERMINATED = 143


REASON_OF: dict[int, Reason] = {
    ExitCode.CRASHED: Reason.CRASHED,
    ExitCode.INVALID_SPEC: Reason.INVALID_SPEC,
    ExitCode.INVALID_DATA: Reason.INVALID_DATA,
    ExitCode.SOURCE_NOT_FOUND: Reason.SOURCE_NOT_FOUND,
    ExitCode.INVALID_MODEL: Reason.INVALID_MODEL,
    ExitCode.INSUFFICIENT_MEMORY: Reason.INSUFFICIENT_MEMORY,
    ExitCode.SOURCE_UNAVAILABLE: Reason.SOURCE_UNAVAILABLE,
    ExitCode.NON_FINITE_LOSS: Reason.NON_FINITE_LOSS,
    ExitCode.LEARNED_NOTHING: Reason.LEARNED_NOTHING,
    ExitCode.PARITY_FAILED: Reason.PARITY_FAILED,
    ExitCode.OUTPUT_UNWRITABLE: Reason.OUTPUT_UNWRITABLE,
    ExitCode.STRATEGY_MISMATCH: Reason.STRATEGY_MISMATCH,
    ExitCode.PREEMPTED: Reason.PREEMPTED,
    ExitCode.TRAINER_TOO_OLD: Reason.TRAINER_TOO_OLD,
    ExitCode.GATE_UNMET: Reason.GATE_UNMET,
    ExitCode.NOT_SUPPORTED: Reason.NOT_SUPPORTED,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    ExitCode.TERMINATED: Reason.PREEMPTED,
}
"""Reason of each exit code. 137 is absent: only the container's own reason tells OOM from a kill."""
