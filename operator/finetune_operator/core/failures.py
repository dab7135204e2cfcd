"""Why a stage's Job was lost, and whether another attempt can help.

Reads the pod: the Job itself cannot tell an OOM from a kill.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from finetune_api.conditions import Reason
from finetune_api.contract import StageResult, parse_result
from finetune_api.exit_codes import REASON_OF, ExitCode
from finetune_api.status import Stage
from finetune_operator.core.observed import Manifest, condition
from finetune_operator.core.pod_status import disrupted, is_stage, newest, terminated_state

Verdict = Literal["stop", "retry", "disruption"]

RETRYABLE = frozenset({Reason.CRASHED, Reason.SOURCE_UNAVAILABLE, Reason.HANG})
"""Failures that another attempt may not meet again. Everything else would only repeat itself."""
FINAL_EXIT_CODES = frozenset(
    int(code) for code, reason in REASON_OF.items() if reason not in (*RETRYABLE, Reason.PREEMPTED)
)
"""Exit codes after which no attempt follows."""
_EXIT_CODE = re.compile(r"failed with exit code (\d+) matching FailJob rule")


@dataclass(frozen=True)
class Cause:
    """Why an attempt was lost."""

    reason: Reason
    message: str
    verdict: Verdict
    result: StageResult | None = None
    """What the pod reported, when it could."""


def cause_of(job: Manifest, pods: tuple[Manifest, ...], stage: Stage) -> Cause:
    """Cause of a failed Job, from its newest pod."""
    pod = newest(pods)
    if pod is None:
        return _told_by_job(job, stage)
    terminated = terminated_state(pod)
    result = parse_result(terminated.get("message") or "")
    if result is not None and result.outcome != "Succeeded":
        return _reported(result)
    return _observed(pod, terminated, stage)


def _reported(result: StageResult) -> Cause:
    if result.outcome == "Preempted":
        return Cause(Reason.PREEMPTED, result.message, "disruption", result)
    return Cause(result.reason, result.message, "retry" if result.reason in RETRYABLE else "stop", result)


def _observed(pod: Manifest, terminated: dict[str, Any], stage: Stage) -> Cause:
    if terminated.get("reason") == "OOMKilled":
        return Cause(Reason.OUT_OF_MEMORY, _out_of_memory(pod, stage), "stop")
    if disrupted(pod):
        return Cause(Reason.PREEMPTED, pod["status"].get("message") or "the pod was evicted or preempted", "disruption")
    code = terminated.get("exitCode")
    if code in (None, ExitCode.KILLED) and pod["metadata"].get("deletionTimestamp"):
        return Cause(Reason.PREEMPTED, "the pod was deleted, and had no time to save a checkpoint", "disruption")
    reason = REASON_OF.get(code, Reason.CRASHED) if code is not None else Reason.CRASHED
    if reason is Reason.PREEMPTED:
        return Cause(reason, "the pod was asked to stop", "disruption")
    message = f"stage {stage} ended with exit code {code}: {_last_lines(terminated)}; see the log of pod {_name(pod)}"
    return Cause(reason, message, "retry" if reason in RETRYABLE else "stop")


def _out_of_memory(pod: Manifest, stage: Stage) -> str:
    limit = next((c["resources"]["limits"]["memory"] for c in pod["spec"]["containers"] if is_stage(c)), "its limit")
    return (
        f"stage {stage} was ended by the kernel at its memory limit of {limit}: "
        "raise resources.memory, or lower training.microBatchSize or dataset.maxLength"
    )


def _last_lines(terminated: dict[str, Any]) -> str:
    lines = (terminated.get("message") or "no message").strip().splitlines()
    return lines[-1][:512] if lines else "no message"


def _told_by_job(job: Manifest, stage: Stage) -> Cause:
    """The pod is gone; of a final exit code the Job's podFailurePolicy keeps the number."""
    failed = condition(job, "Failed") or {}
    message = failed.get("message") or "the Job failed and its pod is gone"
    code = _EXIT_CODE.search(message)
    reason = REASON_OF.get(int(code[1]), Reason.CRASHED) if code else Reason.CRASHED
    if reason in RETRYABLE:
        return Cause(Reason.CRASHED, f"{failed.get('reason', 'Failed')}: {message}", "retry")
    return Cause(reason, f"stage {stage} ended with exit code {code[1] if code else ''}, and its pod is gone", "stop")


def _name(obj: Manifest) -> str:
    name: str = obj["metadata"]["name"]
    return name
