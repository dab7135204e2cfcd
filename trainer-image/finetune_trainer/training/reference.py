"""What the untouched model thinks of the answers, computed once before training and kept in the workspace.

A later attempt reads it, so that no part of it ever comes from a model that has been trained a little. What is kept is
named after all that decides it, carries the SHA-256 of its bytes, and grows while it is computed: an attempt that is
interrupted goes on where the one before it stopped.
"""

import hashlib
import io
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from datasets import Dataset

from finetune_trainer.evaluating.losses import row_losses
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.result import write_atomically
from finetune_trainer.run import Run
from finetune_trainer.training.arguments import autocasts
from finetune_trainer.training.checkpoints import digest_of
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.preference_rows import sequences_of
from finetune_trainer.training.rows import rows_digest

_log = structlog.get_logger(__name__)
FOLDER = "reference"
ROWS_AT_ONCE = 64
KEPT_EVERY = 60.0
"""Seconds after which what was computed is kept."""
_DIGEST_BYTES = 32


def reference_likelihoods(run: Run, model: Any, rows: Dataset, folder: Path, preemption: Preemption) -> np.ndarray:  # noqa: ANN401
    """Summed log-likelihoods of both answers of `rows`, float64 [rows, 2], under `model`, which this job has
    not trained yet.

    `folder` is where stage prepare wrote the rows. Raises PreemptedError when asked to stop, OSError when the workspace
    cannot be written.
    """
    file = reference_file(run, folder)
    found = _kept(file, len(rows))
    began = time.monotonic()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        if not np.isnan(found[start:stop]).any():
            continue
        if preemption.requested:
            _keep(file, found)
            preemption.leave_if_requested(f"the reference of {start} of {len(rows)} rows is kept")
        found[start:stop] = _likelihoods(run, model, rows.select(range(start, stop)))
        run.progress.update(0, run.plan.training.total_steps)
        if time.monotonic() - began > KEPT_EVERY or stop == len(rows):
            _keep(file, found)
            began = time.monotonic()
    return found


def reference_file(run: Run, folder: Path) -> Path:
    """File with the reference of the rows in `folder`, there or not."""
    parts = {
        "model": run.plan.model.digest,
        "continued": run.plan.method.continued_digest,
        "quantization": run.spec.method.model_dump(mode="json", include={"type", "quantization"}),
        "precision": run.plan.training.precision,
        "attention": run.plan.training.attention,
        "rows": rows_digest(folder),
    }
    return run.workspace.root / FOLDER / f"{digest_of(parts).removeprefix('sha256:')}.npy"


def _likelihoods(run: Run, model: Any, rows: Dataset) -> np.ndarray:  # noqa: ANN401 - of any family
    sequences = [EvalRow(i, [*ids], [*mask], [], "") for i, (ids, mask) in enumerate(sequences_of(rows))]
    training = run.plan.training
    with _as_in_training(run):
        table = row_losses(model, sequences, tokens=2 * training.micro_batch_size * training.max_length)
    return -table[:, 0].reshape(len(rows), 2)


def _as_in_training(run: Run) -> AbstractContextManager[Any]:
    """The number format in which training computes: at its start the model is its reference, to rounding."""
    if not autocasts(run):
        return nullcontext()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.float16 if run.plan.training.precision == "fp16" else torch.bfloat16)


def _kept(file: Path, rows: int) -> np.ndarray:
    """What was kept, with NaN where nothing is known; nothing of a file that does not hold what was written."""
    nothing = np.full((rows, 2), np.nan)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return nothing
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        _log.warning("the kept reference is damaged and is computed again", file=file.name)
        return nothing
    found = np.load(io.BytesIO(payload), allow_pickle=False)
    return found if found.shape == nothing.shape else nothing


def _keep(file: Path, found: np.ndarray) -> None:
    payload = io.BytesIO()
    np.save(payload, found, allow_pickle=False)
    write_atomically(file, hashlib.sha256(payload.getvalue()).digest() + payload.getvalue())
