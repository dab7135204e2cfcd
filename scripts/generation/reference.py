"""Reference pages of reasons, condition types and exit codes."""

from finetune_api.conditions import ConditionType, Reason
from finetune_api.exit_codes import REASON_OF, ExitCode
from generation import docstrings
from generation.markdown import code, page, table

_WITHOUT_REASON = {
    ExitCode.DONE: "The stage ended well.",
    ExitCode.KILLED: "Killed by SIGKILL: `OutOfMemory` when the container's own reason is OOMKilled, else `Crashed`.",
}


def reasons() -> str:
    """docs/reference/reasons.md."""
    types, members = docstrings.of_members(ConditionType), docstrings.of_members(Reason)
    return page(
        "Conditions and reasons",
        "Types of `status.conditions`, and the reasons that conditions and Events carry. The message beside a reason "
        "says what was found and what to do.",
        "## Condition types",
        table(("Type", "Meaning"), ((code(each), types[each.name]) for each in ConditionType)),
        "## Reasons",
        table(("Reason", "Meaning and way out"), ((code(each), members[each.name]) for each in Reason)),
    )


def exit_codes() -> str:
    """docs/reference/exit-codes.md."""
    return page(
        "Exit codes of the trainer",
        "What a stage's process ends with, so that a pod tells its cause even when its termination message is lost.",
        table(("Code", "Name", "Reason", "Meaning and way out"), (_exit_code_row(each) for each in ExitCode)),
    )


def _exit_code_row(exit_code: ExitCode) -> tuple[str, str, str, str]:
    reason = REASON_OF.get(exit_code)
    if reason is None:
        return str(exit_code.value), exit_code.name, "", _WITHOUT_REASON[exit_code]
    own = docstrings.of_members(ExitCode).get(exit_code.name)
    meaning = own or docstrings.of_members(Reason)[reason.name]
    return str(exit_code.value), exit_code.name, code(reason), meaning
