"""Puts the parts of a training run together: model, rows, arguments, callbacks. Must not train."""

import os
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, TrainerCallback

from finetune_trainer import ownership
from finetune_trainer.data.storage import CLASSES
from finetune_trainer.models.adapters import make_trainable
from finetune_trainer.models.heads import Head, head_of, start_head
from finetune_trainer.models.initialization import (
    initialize_loftq,
    keep_start,
    restore_start,
    starts_away_from_zero,
)
from finetune_trainer.models.load import DTYPES, load_model, load_tokenizer
from finetune_trainer.models.quantization import bitsandbytes_config
from finetune_trainer.run import Run
from finetune_trainer.training import rows as training_rows
from finetune_trainer.training.arguments import sft_config, weights_precision
from finetune_trainer.training.callbacks import OwedEvaluation, ProgressReporter, StopOnPreemption, StrategyGuard
from finetune_trainer.training.checkpoints import CheckpointStore, digest_of
from finetune_trainer.training.head_trainer import HeadCollator, HeadTrainer
from finetune_trainer.training.preemption import Preemption
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
    """Digest of all that decides the numbers of a run: a checkpoint of another one cannot be continued."""
    settings = run.spec.training.model_dump(mode="json", exclude={"keep_checkpoints", "log_every", "early_stopping"})
    parts = {
        "model": run.plan.model.digest,
        "method": run.plan.method.model_dump(mode="json"),
        "methodSpec": run.spec.method.model_dump(mode="json"),
        "training": run.plan.training.model_dump(mode="json", exclude={"log_every", "checkpoint_every"}),
        "settings": settings,
        "rows": training_rows.rows_digest(run.workspace.train_rows),
    }
    return digest_of(parts)


def build_trainer(run: Run, store: CheckpointStore, preemption: Preemption) -> tuple[StageTrainer, ProgressReporter]:
    """The trainer, ready to train, and what reports of it. Raises StageError."""
    torch.set_num_threads(run.threads)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.workspace.tensorboard)
    tokenizer = load_tokenizer(run.workspace.model, run.spec.model.chat_template)
    head = head_of(run)
    train_rows, eval_rows = _rows(run)
    reporter = ProgressReporter(run)
    callbacks = _callbacks(run, preemption, reporter)
    kind, collator = (HeadTrainer, HeadCollator) if head else (StageTrainer, RowCollator)
    trainer: StageTrainer = kind(
        run,
        store,
        preemption,
        model=_model(run, head),
        args=sft_config(run),
        data_collator=collator(int(tokenizer.pad_token_id), 8 if torch.cuda.is_available() else 1),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        if hasattr(callback, "trainer"):
            callback.trainer = trainer
    return trainer, reporter


def start_values(run: Run) -> Path | None:
    """File with the start of this run's adapter, there or not; None for one that starts at zero."""
    if not starts_away_from_zero(run.spec.method):
        return None
    return run.workspace.start_values / f"{run_digest(run).removeprefix('sha256:')}.safetensors"


def _model(run: Run, head: Head | None) -> PreTrainedModel:
    method, precision = run.spec.method, weights_precision(run)
    quantization = bitsandbytes_config(method, DTYPES[precision], classes=head is not None)
    attention, seed = run.plan.training.attention, run.spec.training.seed
    base = load_model(run.workspace.model, precision, attention, quantization, head, new_head=head is not None)
    if head is not None:
        start_head(base, seed)
    start = start_values(run)
    started = start is not None and start.exists()
    model = make_trainable(base, run.plan.method, method, seed, started=started, head=head)
    if start is not None:
        _set_start(run, model, start)
    return model


def _set_start(run: Run, model: PeftModel, start: Path) -> None:
    """The same start in every attempt: decomposed by the first one, read by later ones."""
    if start.exists():
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


def _callbacks(run: Run, preemption: Preemption, reporter: ProgressReporter) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [StrategyGuard(), reporter, StopOnPreemption(preemption), OwedEvaluation()]
    stopping = run.spec.training.early_stopping
    if stopping is not None:
        callbacks.append(EarlyStoppingCallback(stopping.patience, stopping.min_delta))
    return callbacks
