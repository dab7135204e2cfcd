"""An evaluation of answers in words: the tuned model against the untouched one. Must not judge."""

from collections.abc import Sequence
from typing import Any

from finetune_trainer.evaluating.generating import stop_ids
from finetune_trainer.evaluating.json_metrics import json_metrics
from finetune_trainer.evaluating.measuring import Measurement, Task, measure
from finetune_trainer.evaluating.models import Contestants
from finetune_trainer.evaluating.records import keep_samples
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.models.load import load_tokenizer
from finetune_trainer.run import Run


def contest(run: Run, rows: Sequence[EvalRow], metrics: Sequence[str]) -> tuple[Measurement, Measurement | None]:
    """Measurements of the tuned model and of the baseline, which may not be wanted; keeps samples of both."""
    contestants = Contestants(run)
    tokenizer = load_tokenizer(run.workspace.tuned)
    stops = stop_ids(contestants.tuned, tokenizer, rows)
    limit = run.spec.evaluation.generation.max_new_tokens
    task = Task(rows, metrics, tokenizer, stops, limit, **_json_metrics(run))
    tuned, baseline = contestants.asked(measure, task, baseline=run.spec.evaluation.baseline)
    keep_samples(run.workspace, task, tuned, baseline)
    return tuned, baseline


def _json_metrics(run: Run) -> dict[str, Any]:
    if run.spec.task != "extraction":
        return {}
    return {"answer_metrics": json_metrics(run.spec.dataset.answer_schema)}
