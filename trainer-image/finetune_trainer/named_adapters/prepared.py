"""One plan and one report on data for a job with several adapters. Pure."""

import hashlib
from collections.abc import Mapping, Sequence

from finetune_api.prices import accelerators, price
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import DatasetReport, LongRow, Plan, PlannedAdapter
from finetune_trainer.data.intake import LONGEST_ROWS
from finetune_trainer.data.preparation import WARNING_LIMIT, PreparedData, row_tokens


def whole_plan(spec: FineTuneJobSpec, plans: Mapping[str, Plan], data: Mapping[str, PreparedData]) -> Plan:
    """The plan of the job: sums of steps, parameters and time; besides that of the adapter that needs most memory."""
    largest = max(plans.values(), key=lambda plan: plan.memory.estimated_bytes)
    trainable = sum(plan.model.trainable_parameters for plan in plans.values())
    steps = sum(plan.training.total_steps for plan in plans.values())
    return largest.model_copy(
        update={
            "model": largest.model.model_copy(update={"trainable_parameters": trainable}),
            "training": largest.training.model_copy(update={"total_steps": steps}),
            "metrics": [*dict.fromkeys(metric for plan in plans.values() for metric in plan.metrics)],
            "exports": [export for plan in plans.values() for export in plan.exports],
            "adapters": [_planned(name, plan, data[name].report) for name, plan in plans.items()],
            **_time(spec, [plan.estimated_seconds for plan in plans.values()]),
        }
    )


def _time(spec: FineTuneJobSpec, parts: Sequence[int | None]) -> dict[str, int | str | None]:
    known = [seconds for seconds in parts if seconds is not None]
    if len(known) < len(parts):
        return {"estimated_seconds": None, "estimated_cost": ""}
    return {"estimated_seconds": sum(known), "estimated_cost": price(spec, accelerators(spec) * sum(known))}


def _planned(name: str, plan: Plan, report: DatasetReport) -> PlannedAdapter:
    return PlannedAdapter(
        name=name,
        train_rows=report.train_rows,
        eval_rows=report.eval_rows,
        rank=plan.method.rank,
        alpha=plan.method.alpha,
        total_steps=plan.training.total_steps,
        batch_size=plan.training.batch_size,
        max_length=plan.training.max_length,
        estimated_bytes=plan.memory.estimated_bytes,
    )


def whole_dataset(data: Mapping[str, PreparedData]) -> DatasetReport:
    """The report on all rows: sums, quantiles over all, and warnings and rows that name their adapter."""
    reports = {name: prepared.report for name, prepared in data.items()}
    every = [*reports.values()]
    return DatasetReport(
        format=every[0].format,
        file_format=", ".join(dict.fromkeys(report.file_format for report in every))[:1024],
        train_rows=sum(report.train_rows for report in every),
        eval_rows=sum(report.eval_rows for report in every),
        bad_rows=sum(report.bad_rows for report in every),
        over_length_rows=sum(report.over_length_rows for report in every),
        train_tokens=sum(report.train_tokens for report in every),
        supervised_tokens=sum(report.supervised_tokens for report in every),
        longest_row=max(report.longest_row for report in every),
        row_tokens=row_tokens([length for prepared in data.values() for length in prepared.train_lengths]),
        longest_rows=_longest(reports),
        digest=_digest(reports),
        warnings=[_of(name, text)[:1024] for name, r in reports.items() for text in r.warnings][:WARNING_LIMIT],
    )


def _longest(reports: Mapping[str, DatasetReport]) -> list[LongRow]:
    rows = [
        LongRow(row=_of(name, row.row)[:253], tokens=row.tokens)
        for name, report in reports.items()
        for row in report.longest_rows
    ]
    return sorted(rows, key=lambda row: -row.tokens)[:LONGEST_ROWS]


def _digest(reports: Mapping[str, DatasetReport]) -> str:
    lines = "".join(f"{name} {report.digest}\n" for name, report in reports.items())
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _of(name: str, text: str) -> str:
    return f"adapter {name}: {text}"
