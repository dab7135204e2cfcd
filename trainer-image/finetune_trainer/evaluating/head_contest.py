"""An evaluation of a head of classes: the tuned model against the best that can be had without training one.

For texts the baseline is the untouched language model, asked for the name of the label. An untouched decoder has no
tags, so for words it is the tag distribution of the train rows: the most frequent tag everywhere. A model that comes
with a head is its own baseline. Must not judge.
"""

import gc
from collections.abc import Sequence

import numpy as np

from finetune_trainer.evaluating.class_metrics import CLASS_METRICS
from finetune_trainer.evaluating.classes import Told, told_by_frequency, told_by_head, told_by_words
from finetune_trainer.evaluating.losses import OnRows
from finetune_trainer.evaluating.measuring import Measurement
from finetune_trainer.evaluating.records import SAMPLES, write_samples
from finetune_trainer.evaluating.row_progress import RowProgress
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.models.heads import Head, head_of
from finetune_trainer.models.load import load_source, load_tokenizer, load_tuned
from finetune_trainer.run import Run


def contest(run: Run, rows: Sequence[EvalRow], metrics: Sequence[str]) -> tuple[Measurement, Measurement | None]:
    """Measurements of the tuned model and of the baseline, which may not be wanted; keeps samples of both."""
    head = head_of(run)
    assert head is not None  # noqa: S101 - the stage asks for tasks with a head only
    asks_model = run.spec.evaluation.baseline and (head.task == "classification" or not head.is_new)
    on_rows = RowProgress(run, len(rows), len(rows) * (1 + asks_model))
    told = told_by_head(load_tuned(run), rows, on_rows)
    gc.collect()  # the baseline needs the tuned model's room
    before = _baseline(run, head, rows, on_rows) if run.spec.evaluation.baseline else None
    write_samples(run.workspace, _samples(run, head, rows, told, before))
    tuned = _measurement(told, rows, metrics, head)
    return tuned, _measurement(before, rows, metrics, head) if before else None


def _baseline(run: Run, head: Head, rows: Sequence[EvalRow], on_rows: OnRows) -> Told:
    training = run.plan.training
    if not head.is_new:
        return told_by_head(load_source(run, training.precision, training.attention, head), rows, on_rows)
    if head.task == "token-classification":
        return told_by_frequency(_frequencies(run, len(head.classes)), rows)
    model = load_source(run, training.precision, training.attention, None)
    return told_by_words(model, load_tokenizer(run.workspace.model), rows, head.classes, on_rows)


def _frequencies(run: Run, classes: int) -> np.ndarray:
    from datasets import load_from_disk

    counts: np.ndarray = np.zeros(classes, dtype=np.int64)
    rows = load_from_disk(str(run.workspace.train_rows)).select_columns(["classes"]).with_format("numpy")
    for batch in rows.iter(batch_size=1000):
        counts += np.bincount(np.concatenate([*batch["classes"]]), minlength=classes)
    return counts


def _measurement(told: Told, rows: Sequence[EvalRow], metrics: Sequence[str], head: Head) -> Measurement:
    right = [row.classes for row in rows]
    tables = {"eval_loss": told.losses}
    tables |= {
        name: CLASS_METRICS[name].table(told.classes, right, head.classes) for name in metrics if name in CLASS_METRICS
    }
    return Measurement(tables)


def _samples(
    run: Run, head: Head, rows: Sequence[EvalRow], tuned: Told, before: Told | None
) -> list[dict[str, object]]:
    tokenizer = load_tokenizer(run.workspace.model)
    return [
        {
            "row": row.index,
            "text": tokenizer.decode(row.input_ids, skip_special_tokens=True),
            "baseline": _names(before.classes[i], head) if before else None,
            "tuned": _names(tuned.classes[i], head),
            "reference": row.reference,
        }
        for i, row in enumerate(rows[:SAMPLES])
    ]


def _names(classes: Sequence[int], head: Head) -> str:
    return " ".join(head.classes[i] for i in classes)
