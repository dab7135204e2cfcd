"""What a job's status looks like to a person: one line while it runs, then a summary. Reads well without colour."""

from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune_api.conditions import ConditionType
from finetune_api.status import AdapterEvaluation, Artifact, Evaluation, FineTuneJobStatus, Phase, Stage, StageTiming
from finetune_api.v1alpha1 import FineTuneJob


def progress_line(job: FineTuneJob) -> str:
    """As in `Training  42 %  step 42 of 100, loss 1.83, 4 min left`."""
    status = job.status
    percent = f"{status.progress.percent:3d} %" if status.progress and not status.phase.terminal else "     "
    return f"{status.phase:<11}{percent}  {status.message}".rstrip()


def summary(job: FineTuneJob) -> RenderableType:
    """Everything a user asks for when the job has ended, from its status alone."""
    status = job.status
    parts: list[RenderableType] = [Text(f"{job.metadata['name']}: {status.phase}", style="bold"), Text(status.message)]
    if status.phase is Phase.FAILED:
        return Group(*parts, Text(f"reason: {_failure_reason(status)}"))
    if status.evaluation:
        parts += _evaluation_tables(status.evaluation, status.plan.method.start if status.plan else "base model")
    if status.artifacts:
        parts.append(_artifact_table(status.artifacts))
    parts.append(_timing_table(status))
    return Group(*parts)


def _failure_reason(status: FineTuneJobStatus) -> str:
    return next((c.reason for c in status.conditions if c.type == ConditionType.SUCCEEDED), "unknown")


def _evaluation_tables(evaluation: Evaluation, start: str) -> list[Table]:
    """One table, or one for each of several adapters."""
    if not evaluation.adapters:
        return [_evaluation_table(f"{evaluation.rows} held-out rows", evaluation, start)]
    return [_evaluation_table(f"{a.name}: {a.rows} held-out rows", a, start) for a in evaluation.adapters]


def _evaluation_table(title: str, evaluation: Evaluation | AdapterEvaluation, start: str) -> Table:
    table = _table(title, "metric", f">{start}", ">tuned model", ">difference")
    for metric, tuned in evaluation.tuned.items():
        base = evaluation.baseline.get(metric)
        difference = "" if base is None else f"{tuned - base:+.4g}"
        table.add_row(metric, "" if base is None else f"{base:.4g}", f"{tuned:.4g}", difference)
    for gate in evaluation.gates:
        got = "" if gate.got is None else f"{gate.got:.4g}"
        table.add_row(f"gate: {gate.metric} {gate.required}", "", got, "passed" if gate.passed else "NOT MET")
    return table


def _artifact_table(artifacts: Iterable[Artifact]) -> Table:
    table = _table("artifacts", "name", "format", ">size", "sha256", "parity with PyTorch", ">tokens/s", "where")
    for artifact in artifacts:
        kind = f"{artifact.format} {artifact.precision}".rstrip()
        digest = artifact.digest.removeprefix("sha256:")[:12]
        speed = "" if artifact.tokens_per_second is None else f"{artifact.tokens_per_second:.0f}"
        table.add_row(artifact.name, kind, size(artifact.size_bytes), digest, _parity(artifact), speed, artifact.uri)
    return table


def _parity(artifact: Artifact) -> str:
    parity = artifact.parity
    if parity is None:
        return ""
    values = {"top-1": parity.top1, "KL": parity.kl, "max |d|": parity.max_abs, "ppl ratio": parity.perplexity_ratio}
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if value is not None)


def _timing_table(status: FineTuneJobStatus) -> Table:
    table = _table("time", "stage", ">seconds")
    for timing in sorted(status.stages, key=lambda t: [*Stage].index(t.stage)):
        table.add_row(timing.stage, _seconds(timing))
    if status.start_time and status.completion_time:
        table.add_row("whole job", f"{_moment(status.completion_time) - _moment(status.start_time):.0f}")
    return table


def _seconds(timing: StageTiming) -> str:
    return f"{_moment(timing.completed_at) - _moment(timing.started_at):.0f}" if timing.completed_at else ""


def _moment(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def size(count: int) -> str:
    """`count` bytes in decimal units, as in `9.8 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
