"""Jobs with two adapters whose rows teach opposite answers to the same questions, and runs of their stages."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.status import Stage
from finetune_trainer.run import Run, Workspace
from tiny_models import build_tiny_model
from trainer_requests import make_run
from training_job import RecordedProgress

ANSWERS = {"french": ("le prix du grain", "la lune de Paris"), "italian": ("il costo della nave", "Roma e Vienna")}
ROWS = {"french": 30, "italian": 20}
"""Rows of each adapter: their numbers of steps differ."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """As JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def chat_rows(name: str) -> list[dict[str, Any]]:
    """The same questions for every adapter, and its own answers."""
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWERS[name][i % 2]}]}
        for i in range(ROWS[name])
        for question in [f"{'Topic of: ' * (i % 3)}the bank of {('oil', 'crude')[i % 2]} ({i})"]
    ]


def pair_rows(name: str) -> list[dict[str, Any]]:
    """Preferences: each adapter wants what the other does not."""
    other = next(key for key in ANSWERS if key != name)
    return [
        {"prompt": f"the bank ({i})", "chosen": ANSWERS[name][i % 2], "rejected": ANSWERS[other][i % 2]}
        for i in range(ROWS[name])
    ]


def make_root(root: Path, family: str = "llama") -> Path:
    """Claims `models` with a tiny model and `data` with the rows of both adapters; returns `root`."""
    shutil.copytree(build_tiny_model(family), root / "claims" / "models" / "tiny")
    for name in ANSWERS:
        write_rows(root / "claims" / "data" / f"{name}.jsonl", chat_rows(name))
        write_rows(root / "claims" / "data" / f"{name}-pairs.jsonl", pair_rows(name))
    return root


def source(name: str, kind: str = "") -> dict[str, str]:
    """The rows of an adapter."""
    return {"source": f"pvc://data/{name}{kind}.jsonl"}


def adapter_run(
    root: Path, stage: Stage, workspace: str = "workspace", *, alone: str = "", attempt: int = 1, **parts: Any
) -> Run:
    """A call of `stage` for a short job with both adapters, or for the ordinary job of the one that is named `alone`.

    Parts of the spec are merged into it; `method.adapters` of it go into those of the job by their names.
    """
    kind = "-pairs" if parts.get("task") == "preference" else ""
    own = {"french": {"rank": 8}, "italian": {"rank": 4}}
    method = {"dropout": 0.1, **parts.pop("method", {})}
    if method.get("type") == "adapter":
        own, method = {name: {} for name in own}, {"type": "adapter"}
    dataset = {"evalFraction": 0.2, **parts.pop("dataset", {})}
    if alone:
        rank = own[alone].get("rank")
        method |= {"rank": rank, "alpha": 2 * rank} if rank else {}
        dataset["train"] = source(alone, kind)
    else:
        method["adapters"] = [{"name": name, "dataset": source(name, kind), **own[name]} for name in own]
    training = {"epochs": 2, "batchSize": 8, "microBatchSize": 4, "precision": "fp32", "logEvery": 1, "seed": 3}
    spec = {
        "dataset": dataset,
        "method": method,
        "reporting": {"tensorboard": False},
        **parts,
        "training": {**training, "checkpointEvery": 2, "learningRate": 0.01, **parts.get("training", {})},
    }
    run = make_run(root, stage, **spec, attempt=attempt, cpu_limit=1.0)
    (root / workspace).mkdir(exist_ok=True)
    return replace(run, workspace=Workspace(root / workspace), progress=RecordedProgress())


def progress_of(run: Run) -> RecordedProgress:
    """What the run's stage reported."""
    assert isinstance(run.progress, RecordedProgress)
    return run.progress
