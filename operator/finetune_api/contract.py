"""What operator and stage pods tell each other: a request as one JSON file, progress over HTTP, a result at the end."""

import json
import zlib
from base64 import b64decode, b64encode
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.conditions import Reason
from finetune_api.rules import ApiModel
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    Ancestor,
    Artifact,
    Checkpoint,
    DatasetReport,
    Evaluation,
    HistoryPoint,
    Metrics,
    Plan,
    Progress,
    Stage,
)
from finetune_api.values import Timestamp

CONTRACT_VERSION = 1
TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that the kubelet keeps of a container's termination message."""
PACKED = "zlib"
UNPACKED_LIMIT = 1 << 20


class JobRef(ApiModel):
    """Which job a stage works for."""

    namespace: str
    name: str
    uid: str


class StageRequest(ApiModel):
    """Operator -> pod. A trainer refuses a contractVersion newer than its own with ExitCode.TRAINER_TOO_OLD."""

    contract_version: int = CONTRACT_VERSION
    job: JobRef
    stage: Stage
    attempt: int
    """From 1 in each stage; never falls, so a writer with a lower one knows that it is a leftover."""
    spec: FineTuneJobSpec
    memory_limit_bytes: int | None = None
    """Memory of the training pod, for the estimate in prepare."""
    cpu_limit: float | None = None
    """Cores of this pod; sets the number of threads."""
    lineage: list[Ancestor] | None = None
    """Jobs that the model or the continued adapter comes from, the nearest first; the field of the spec that named it
    has its uri."""


class ProgressReport(ApiModel):
    """Pod -> operator, GET /progress."""

    job_uid: str
    attempt: int
    progress: Progress
    metrics: Metrics | None = None
    history: list[HistoryPoint] = []
    checkpoint: Checkpoint | None = None


class StageResult(ApiModel):
    """Pod -> operator, the termination message; whole in results/<stage>.json of the workspace."""

    contract_version: int = CONTRACT_VERSION
    stage: Stage
    outcome: Literal["Succeeded", "Failed", "Preempted"]
    reason: Reason = Reason.COMPLETED
    message: Annotated[str, Field(max_length=1024)] = ""
    dataset: DatasetReport | None = None
    plan: Plan | None = None
    metrics: Metrics | None = None
    history: list[HistoryPoint] = []
    evaluation: Evaluation | None = None
    artifacts: list[Artifact] = []
    checkpoint: Checkpoint | None = None
    finished_at: Timestamp | None = None

    def termination_message(self) -> str:
        """JSON of at most TERMINATION_MESSAGE_LIMIT bytes, which `parse_result` reads.

        What is longer is packed: `{"zlib": <base64 of the compressed JSON>}`. What does not fit even so is left out,
        least needed first.
        """
        result = self
        for shorter in (
            _halve_history,
            _halve_history,
            _drop_history,
            _cut_labels,
            _cut_warnings,
            _cut_targets,
            _cut_message,
            _cut_adapters,
        ):
            if text := _fitting(result):
                return text
            result = shorter(result)
        if text := _fitting(result):
            return text
        raise ValueError(f"the result of {self.stage} does not fit into a termination message")


def _fitting(result: StageResult) -> str | None:
    plain = result.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)
    packed = json.dumps({PACKED: b64encode(zlib.compress(plain.encode(), level=9)).decode()})
    return next((text for text in (plain, packed) if len(text.encode()) <= TERMINATION_MESSAGE_LIMIT), None)


def _halve_history(result: StageResult) -> StageResult:
    return result.model_copy(update={"history": thinned(result.history, len(result.history) // 2)})


def _drop_history(result: StageResult) -> StageResult:
    return result.model_copy(update={"history": []})


def _cut_labels(result: StageResult) -> StageResult:
    if result.dataset is None:
        return result
    return result.model_copy(update={"dataset": result.dataset.model_copy(update={"labels": []})})


def _cut_warnings(result: StageResult) -> StageResult:
    if result.dataset is None:
        return result
    shorter = {"warnings": result.dataset.warnings[:2], "longest_rows": result.dataset.longest_rows[:1]}
    return result.model_copy(update={"dataset": result.dataset.model_copy(update=shorter)})


def _cut_targets(result: StageResult) -> StageResult:
    if result.plan is None:
        return result
    method = result.plan.method.model_copy(update={"target_modules": []})
    return result.model_copy(update={"plan": result.plan.model_copy(update={"method": method})})


def _cut_message(result: StageResult) -> StageResult:
    return result.model_copy(update={"message": result.message[:256]})


def _cut_adapters(result: StageResult) -> StageResult:
    """Of each adapter its loss and the gates that it has not met; the rest is in the workspace and in report.json."""
    if result.evaluation is None:
        return result
    shorter = [
        adapter.model_copy(
            update={
                "baseline": _loss_of(adapter.baseline),
                "tuned": _loss_of(adapter.tuned),
                "gates": [gate for gate in adapter.gates if not gate.passed],
            }
        )
        for adapter in result.evaluation.adapters
    ]
    return result.model_copy(update={"evaluation": result.evaluation.model_copy(update={"adapters": shorter})})


def _loss_of(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name == "eval_loss"}


def thinned(points: list[HistoryPoint], limit: int) -> list[HistoryPoint]:
    """At most `limit` points, evenly spaced, always with the first and the last."""
    if len(points) <= limit:
        return points
    if limit < 2:
        return points[-limit:] if limit else []
    last = len(points) - 1
    return [points[round(i * last / (limit - 1))] for i in range(limit)]


def parse_result(text: str) -> StageResult | None:
    """The result in a termination message, or None when the text is something else (a kernel message, a traceback)."""
    try:
        return StageResult.model_validate_json(_unpacked(text))
    except (ValueError, zlib.error):
        return None


def _unpacked(text: str) -> str | bytes:
    document = json.loads(text)
    packed = document.get(PACKED) if isinstance(document, dict) else None
    if not isinstance(packed, str):
        return text
    # The limit keeps a hostile pod from filling the operator's memory.
    return zlib.decompressobj().decompress(b64decode(packed), UNPACKED_LIMIT)
