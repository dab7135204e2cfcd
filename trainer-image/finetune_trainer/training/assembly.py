"""Puts the parts of a training run together: model, rows, arguments, callbacks. Must not train."""

import os

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, TrainerCallback

from finetune_trainer import ownership
from finetune_trainer.models.adapters import make_trainable
from finetune_trainer.models.load import load_model, load_tokenizer
from finetune_trainer.run import Run
from finetune_trainer.training import rows as training_rows
from finetune_trainer.training.arguments import sft_config, weights_precision
from finetune_trainer.training.callbacks import OwedEvaluation, ProgressReporter, StopOnPreemption, StrategyGuard
from finetune_trainer.training.checkpoints import CheckpointStore, digest_of
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
    train_rows, eval_rows = _rows(run)
    reporter = ProgressReporter(run)
    callbacks = _callbacks(run, preemption, reporter)
    trainer = StageTrainer(
        run,
        store,
        preemption,
        model=_model(run),
        args=sft_config(run),
        data_collator=RowCollator(int(tokenizer.pad_token_id), 8 if torch.cuda.is_available() else 1),
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


def _model(run: Run) -> PreTrainedModel:
    model = load_model(run.workspace.model, weights_precision(run), run.plan.training.attention)
    return make_trainable(model, run.plan.method, run.spec.method, run.spec.training.seed)


def _rows(run: Run) -> tuple[Dataset, Dataset | None]:
    train = training_rows.load_rows(run.workspace.train_rows)
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
