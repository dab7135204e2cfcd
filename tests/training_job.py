"""A training job small enough for a test: tokenised rows, a plan, and a Run on a folder, without stage prepare.

`TrainingJob(tmp_path)` writes what prepare would have left; `run()` is one attempt at stage train on it.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from finetune_api.contract import JobRef, StageRequest, StageResult
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    MemoryPlan,
    Metrics,
    Plan,
    PlannedMethod,
    PlannedModel,
    PlannedTraining,
    Stage,
)
from finetune_trainer.run import ProgressUpdate, Run, Workspace
from tiny_models import build_tiny_model

SOURCE = "hf://acme/tiny-instruct"
WORDS = (
    "the capital of France is Paris",
    "the bank will buy a rival",
    "oil prices fell",
    "return a parcel",
    "two plus three",
)


@dataclass
class RecordedProgress:
    """A ProgressSink that keeps every update."""

    updates: list[dict[str, Any]] = field(default_factory=list)

    def update(self, step: int, total_steps: int, **told: Unpack[ProgressUpdate]) -> None:
        """Keep it."""
        self.updates.append({"step": step, "total_steps": total_steps, **told})

    def of(self, name: str) -> list[Any]:
        """Every value of `name` that was not None."""
        return [update[name] for update in self.updates if update.get(name) is not None]

    def losses(self) -> dict[int, float]:
        """Training loss by step."""
        return {point.step: point.loss for point in self.of("point") if point.loss is not None}

    def eval_losses(self) -> dict[int, float]:
        """Evaluation loss by step."""
        return {point.step: point.eval_loss for point in self.of("point") if point.eval_loss is not None}


@dataclass
class TrainingJob:
    """What prepare leaves for stage train. `training`, `method` and `spec` override plan and spec."""

    folder: Path
    family: str = "llama"
    training: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    rows: int = 20
    eval_rows: int = 5
    supervised: bool = True
    strange_eval: bool = False
    """Held-out answers of random tokens: the better the train rows are learned, the worse they get."""

    def __post_init__(self) -> None:
        self.workspace = Workspace(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.workspace.model.exists():
            self.workspace.model.symlink_to(build_tiny_model(self.family))
            self._write_rows(self.workspace.train_rows, self.rows, seed=0)
            if self.eval_rows:
                self._write_rows(self.workspace.eval_rows, self.eval_rows, seed=7)
        self.workspace.plan.write_text(self.plan().model_dump_json(by_alias=True))

    def run(self, attempt: int = 1, environment: dict[str, str] | None = None) -> Run:
        """One attempt at stage train."""
        request = StageRequest(
            job=JobRef(namespace="default", name="tiny", uid="uid-1"),
            stage=Stage.TRAIN,
            attempt=attempt,
            spec=self.parsed_spec(),
            cpu_limit=1,
        )
        return Run(
            request,
            self.workspace,
            lambda claim: self.folder / claim,
            RecordedProgress(),
            environment=environment or {},
        )

    def parsed_spec(self) -> FineTuneJobSpec:
        """The spec, with `self.spec` merged in."""
        document: dict[str, Any] = {
            "model": {"source": SOURCE},
            "dataset": {"train": {"source": "pvc://data/train.jsonl"}},
            "reporting": {"tensorboard": False},
            "method": {"dropout": 0.1, **({"type": self.method["type"]} if "type" in self.method else {})},
        }
        for name, value in self.spec.items():
            document[name] = {**document.get(name, {}), **value} if isinstance(value, dict) else value
        return FineTuneJobSpec.model_validate(document)

    def plan(self) -> Plan:
        """The plan, with `self.training` and `self.method` merged in."""
        method = {"type": "lora", "rank": 4, "alpha": 8, "target_modules": []} | self.method
        return Plan(
            model=PlannedModel(
                source=SOURCE,
                revision="0" * 40,
                digest="sha256:" + "1" * 64,
                architecture="Tiny",
                parameters=1,
                trainable_parameters=1,
                context_length=512,
            ),
            method=PlannedMethod(**method),
            training=PlannedTraining(**{**TRAINING, "eval_every": 4 if self.eval_rows else 0, **self.training}),
            strategy="none",
            metrics=["eval_loss"],
            exports=[],
            memory=MemoryPlan(
                weights=1, gradients=1, optimizer=1, activations=1, logits=1, runtime=1, estimated_bytes=6
            ),
        )

    def replan(self, **training: Any) -> None:
        """Write the plan again with other values."""
        self.training = {**self.training, **training}
        self.workspace.plan.write_text(self.plan().model_dump_json(by_alias=True))

    def adapter(self) -> dict[str, Any]:
        """Tensors of the tuned adapter."""
        from safetensors.torch import load_file

        return load_file(self.workspace.tuned / "adapter_model.safetensors")

    def manifest(self, step: int) -> dict[str, Any]:
        """Manifest of the checkpoint of `step`."""
        return json.loads((self.workspace.checkpoints / f"checkpoint-{step}" / "manifest.json").read_text())

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints on disk."""
        return sorted(
            int(path.name.removeprefix("checkpoint-")) for path in self.workspace.checkpoints.glob("checkpoint-*")
        )

    def _write_rows(self, path: Path, count: int, seed: int) -> None:
        from datasets import Dataset

        rows = ragged_rows(self.workspace.model, count, seed)
        if not self.supervised:
            rows = [{**row, "completion_mask": [0] * len(row["input_ids"])} for row in rows]
        if path == self.workspace.eval_rows and self.strange_eval:
            rows = [_with_random_answer(row, i) for i, row in enumerate(rows)]
        if path == self.workspace.eval_rows:
            rows = [{**row, "prompt_ids": row["input_ids"][:3], "reference": "ignored"} for row in rows]
        Dataset.from_list(rows).save_to_disk(str(path))


class CrashError(Exception):
    """Stands for a power cut."""


class CrashingProgress(RecordedProgress):
    """Ends the process, as far as the stage can see, when it reports the end of step `at`."""

    at = 0

    def update(self, step: int, total_steps: int, **values: Any) -> None:
        """Keep it, or crash."""
        super().update(step, total_steps, **values)
        if step == self.at and values.get("seconds_left") is not None:
            raise CrashError


def crash(job: TrainingJob, at: int, attempt: int = 1) -> None:
    """Run stage train until the power is cut at the end of step `at`."""
    from finetune_trainer.stages.train import execute

    progress = CrashingProgress()
    progress.at = at
    run = job.run(attempt)
    try:
        execute(Run(run.request, run.workspace, run.claim_path, progress, environment={}))
    except CrashError:
        return
    raise AssertionError(f"the run ended before step {at}")


def metrics_of(result: StageResult) -> Metrics:
    """The metrics that every training result has."""
    assert result.metrics is not None
    return result.metrics


TRAINING: dict[str, Any] = {
    "objective": "sft",
    "total_steps": 8,
    "epochs": 3,
    "batch_size": 4,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "scheduler": "cosine",
    "optimizer": "adamw",
    "max_length": 128,
    "packing": False,
    "loss_on": "completion",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "attention": "sdpa",
    "checkpoint_every": 2,
    "log_every": 1,
}


def _with_random_answer(row: dict[str, Any], seed: int) -> dict[str, Any]:
    chosen = random.Random(seed)
    ids = [chosen.randrange(100, 400) if bit else token for token, bit in zip(*row.values(), strict=True)]
    return {**row, "input_ids": ids}


def ragged_rows(model: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Prompt and answer of different lengths, tokenised; the answer and its end-of-sequence token carry loss."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for i in range(count):
        prompt = tokenizer(" ".join(WORDS[: 1 + (i + seed) % 4]), add_special_tokens=False)["input_ids"]
        answer = tokenizer(WORDS[(i * 3 + seed) % 5], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})
    return rows
