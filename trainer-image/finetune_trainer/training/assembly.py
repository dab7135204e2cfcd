"""Puts the parts of a training run together: model, rows, arguments, callbacks. Must not train."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from pydantic import BaseModel
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, TrainerCallback

from finetune_trainer import ownership
from finetune_trainer.data.storage import CLASSES
from finetune_trainer.models.adapters import load_adapter_values, make_trainable
from finetune_trainer.models.continued_adapter import kept_adapter
from finetune_trainer.models.heads import Head, head_of, start_head
from finetune_trainer.models.initialization import (
    initialize_loftq,
    keep_start,
    restore_start,
    starts_away_from_zero,
)
from finetune_trainer.models.load import DTYPES, load_source, load_tokenizer
from finetune_trainer.models.quantization import bitsandbytes_config
from finetune_trainer.planning.objectives import asks_reference, prefers
from finetune_trainer.run import Run
from finetune_trainer.training import rows as training_rows
from finetune_trainer.training.arguments import sft_config, weights_precision
from finetune_trainer.training.callbacks import OwedEvaluation, ProgressReporter, StopOnPreemption, StrategyGuard
from finetune_trainer.training.checkpoints import CheckpointStore, digest_of
from finetune_trainer.training.head_trainer import HeadCollator, HeadTrainer
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.preference_rows import PreferenceCollator, load_preferences, with_reference
from finetune_trainer.training.preference_trainer import PreferenceTrainer
from finetune_trainer.training.reference import reference_likelihoods
from finetune_trainer.training.rows import RowCollator
from finetune_trainer.training.stage_trainer import StageTrainer


def checkpoint_store(run: Run) -> CheckpointStore:
    """The checkpoints of this run, fenced by its attempt."""
    return CheckpointStore(
        root=run.workspace.checkpoints,
        attempt=run.request.attempt,
        digest=run_digest(run),
        keep=run.spec.training.keep_checkpoints,
        confirm=lambda: ownership.confirm_attempt(run.workspace.root, run.request),
    )


def run_digest(run: Run) -> str:
    """Digest of all that decides the numbers of a run: a checkpoint of another one cannot be continued.

    Fields at their defaults are left out, so that a version with more of them continues what an earlier one saved.
    """
    aside = {"keep_checkpoints", "log_every", "early_stopping"}
    parts = {
        "model": run.plan.model.digest,
        "method": _set_fields(run.plan.method),
        "methodSpec": _set_fields(run.spec.method),
        "training": _set_fields(run.plan.training, {"log_every", "checkpoint_every"}),
        "settings": _set_fields(run.spec.training, aside),
        "rows": training_rows.rows_digest(run.workspace.train_rows),
    }
    return digest_of(parts)


def _set_fields(model: BaseModel, aside: set[str] | None = None) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_defaults=True, exclude=aside)


def load_base(run: Run) -> PreTrainedModel:
    """The untouched model as it is trained on: quantized for QLoRA, with the start of a head of classes."""
    precision, head = weights_precision(run), head_of(run)
    quantization = bitsandbytes_config(run.spec.method, DTYPES[precision], classes=head is not None)
    attention = run.plan.training.attention
    base = load_source(run, precision, attention, head, quantization)
    if head is not None and head.is_new:
        start_head(base, run.spec.training.seed)
    return base


def build_trainer(
    run: Run, store: CheckpointStore, preemption: Preemption, base_of: Callable[[Run], PreTrainedModel] = load_base
) -> tuple[StageTrainer, ProgressReporter]:
    """The trainer, ready to train on the base that `base_of` gives, and what reports of it. Raises StageError."""
    torch.set_num_threads(run.threads)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.workspace.tensorboard)
    tokenizer = load_tokenizer(run.workspace.model, run.spec.model.chat_template)
    head = head_of(run)
    base = base_of(run)
    continued = _continued(run, base)
    lesson = _lesson(run, int(tokenizer.pad_token_id), continued or base, preemption)
    reporter = ProgressReporter(run)
    callbacks = _callbacks(run, preemption, reporter)
    trainer = lesson.trainer(
        run,
        store,
        preemption,
        model=continued or _model(run, base, head),
        args=sft_config(run),
        data_collator=lesson.collator,
        train_dataset=lesson.train_rows,
        eval_dataset=lesson.eval_rows,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        if hasattr(callback, "trainer"):
            callback.trainer = trainer
    return trainer, reporter


@dataclass(frozen=True)
class _Lesson:
    """What is learned from: rows, how they become batches, and the trainer that knows their loss."""

    trainer: type[StageTrainer]
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    train_rows: Dataset
    eval_rows: Dataset | None


def _lesson(run: Run, pad_token_id: int, begun: PreTrainedModel, preemption: Preemption) -> _Lesson:
    padding = (pad_token_id, 8 if torch.cuda.is_available() else 1)
    if prefers(run.spec):
        collator = PreferenceCollator(RowCollator(*padding), apart=run.plan.training.objective == "kto")
        return _Lesson(PreferenceTrainer, collator, *_preferences(run, begun, preemption))
    if head_of(run):
        return _Lesson(HeadTrainer, HeadCollator(*padding), *_rows(run))
    return _Lesson(StageTrainer, RowCollator(*padding), *_rows(run))


def start_values(run: Run) -> Path | None:
    """File with the start of this run's adapter, there or not; None for one that starts at zero."""
    if not starts_away_from_zero(run.spec.method):
        return None
    return run.workspace.start_values / f"{run_digest(run).removeprefix('sha256:')}.safetensors"


def _model(run: Run, base: PreTrainedModel, head: Head | None) -> PreTrainedModel:
    method, seed = run.spec.method, run.spec.training.seed
    start = start_values(run)
    started = start is not None and start.exists()
    model = make_trainable(base, run.plan.method, method, seed, started=started, head=head)
    if start is not None:
        _set_start(run, model, start, started=started)
    return model


def _continued(run: Run, base: PreTrainedModel) -> PreTrainedModel | None:
    """`base`, changed in place, with the adapter that is continued: preferences are compared with it, too.

    None for a new adapter, whose base must be asked before it is changed.
    """
    if run.spec.method.continue_from is None:
        return None
    model = make_trainable(base, run.plan.method, run.spec.method, run.spec.training.seed)
    load_adapter_values(model, kept_adapter(run))
    return model.eval()


def _set_start(run: Run, model: PeftModel, start: Path, *, started: bool) -> None:
    """The same start in every attempt: decomposed by the first one, read by later ones."""
    if started:
        restore_start(model, run.spec.method, start)
        return
    if run.spec.method.initialization == "loftq":
        initialize_loftq(model, run.workspace.model)
    keep_start(model, start)


def _rows(run: Run) -> tuple[Dataset, Dataset | None]:
    train = training_rows.load_rows(run.workspace.train_rows)
    if CLASSES not in train.column_names:  # a class may be told at the first token
        training_rows.require_supervision(train)
    if run.plan.training.packing:
        cache = run.workspace.train_rows.parent / "packed" / "train.arrow"
        train = training_rows.packed(train, run.plan.training.max_length, cache)
    held_out = training_rows.load_rows(run.workspace.eval_rows) if run.plan.training.eval_every else None
    return train.with_format("numpy"), held_out.with_format("numpy") if held_out is not None else None


def _preferences(run: Run, begun: PreTrainedModel, preemption: Preemption) -> tuple[Dataset, Dataset | None]:
    """As _rows, with what `begun`, which this job has not trained yet, thinks of the answers."""
    folders = [run.workspace.train_rows, *([run.workspace.eval_rows] if run.plan.training.eval_every else [])]
    found = [load_preferences(folder) for folder in folders]
    if asks_reference(run.plan.training.objective):
        found = [
            with_reference(rows, reference_likelihoods(run, begun, rows, folder, preemption))
            for rows, folder in zip(found, folders, strict=True)
        ]
    train, *held_out = [rows.with_format("numpy") for rows in found]
    return train, held_out[0] if held_out else None


def _callbacks(run: Run, preemption: Preemption, reporter: ProgressReporter) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [StrategyGuard(), reporter, StopOnPreemption(preemption), OwedEvaluation()]
    stopping = run.spec.training.early_stopping
    if stopping is not None:
        callbacks.append(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
    return callbacks
