"""Rows and jobs for tests of classification and token classification."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.status import Stage
from finetune_trainer.run import Run, Workspace
from finetune_trainer.stages import prepare, train
from tiny_models import build_tiny_model
from trainer_requests import make_run
from training_job import RecordedProgress

TOPICS = {
    "money-fx": "the company said its profit rose by ten percent",
    "ship": "crude oil prices fell after the meeting in Vienna",
    "grain": "the bank will buy a smaller rival in cash",
}
PEOPLE, PLACES = ("Paris Hilton", "Rome Doe", "Yellow Moon"), ("France", "Italy", "Vienna")

Rows = list[dict[str, Any]]


def topic_rows(count: int) -> Rows:
    """Ragged texts whose words tell the label."""
    names = [*TOPICS]
    return [{"text": f"{'News: ' * (i % 3)}{TOPICS[names[i % 3]]} ({i})", "label": names[i % 3]} for i in range(count)]


def entity_rows(count: int) -> Rows:
    """Ragged sentences with persons of two words and places of one."""
    rows = []
    for i in range(count):
        first, last = PEOPLE[i % 3].split()
        words = ["said"] * (i % 2) + [first, last, "returned", "to", PLACES[(i // 3) % 3], str(i)]
        tags = ["O"] * (i % 2) + ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
        rows.append({"tokens": words, "tags": tags})
    return rows


ROWS = {"classification": topic_rows, "token-classification": entity_rows}


def write_rows(path: Path, rows: Rows) -> None:
    """As JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_root(root: Path, family: str = "llama", rows: int = 30) -> Path:
    """Claims `models` with a tiny model and `data` with rows of both tasks; returns `root`."""
    shutil.copytree(build_tiny_model(family), root / "claims" / "models" / "tiny")
    for task, make in ROWS.items():
        write_rows(root / "claims" / "data" / f"{task}.jsonl", make(rows))
    return root


def head_run(root: Path, stage: Stage, task: str, workspace: str = "workspace", **parts: Any) -> Run:
    """A call of `stage` on the claims of `root`; parts of the spec are merged into a short LoRA job."""
    training = {"maxSteps": 8, "batchSize": 8, "microBatchSize": 4, "precision": "fp32", "logEvery": 1, "seed": 3}
    spec = {
        "task": task,
        "dataset": {"train": {"source": f"pvc://data/{task}.jsonl"}, "evalFraction": 0.2},
        "reporting": {"tensorboard": False},
        **parts,
        "training": {**training, "learningRate": 0.003, **parts.get("training", {})},
    }
    run = make_run(root, stage, **spec, cpu_limit=1.0)
    (root / workspace).mkdir(exist_ok=True)
    return replace(run, workspace=Workspace(root / workspace), progress=RecordedProgress())


def trained(root: Path, task: str, workspace: str = "workspace", **parts: Any) -> Run:
    """The run of stage train after it and prepare have ended."""
    prepare.execute(head_run(root, Stage.PREPARE, task, workspace, **parts))
    run = head_run(root, Stage.TRAIN, task, workspace, **parts)
    train.execute(run)
    return run
