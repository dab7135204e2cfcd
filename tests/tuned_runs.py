"""Workspaces as stages prepare and train leave them, with a tiny model: for tests of evaluate and export.

Everything is real (model, adapter, tokenizer, Arrow rows, plan); only the training is a short loop of its own, so that
these tests do not depend on the stage that trains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.contract import JobRef, StageRequest
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Artifact, MemoryPlan, Plan, PlannedMethod, PlannedModel, PlannedTraining, Stage
from finetune_trainer.run import Run, Workspace
from tiny_models import build_tiny_model

QUESTIONS = {
    "What is two plus three?": "five",
    "What is nine minus four?": "five",
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "Topic of: oil prices fell after the meeting in Vienna": "crude",
    "Topic of: the company said its profit rose": "earnings",
    "Topic of: the bank will buy a smaller rival": "acquisition",
    "How do I return a parcel?": "press return",
}


@dataclass
class RecordedProgress:
    """Keeps what a stage reported."""

    steps: list[tuple[int, int]] = field(default_factory=list)

    def update(self, step: int, total_steps: int, **_: Any) -> None:
        self.steps.append((step, total_steps))


def make_run(
    root: Path,
    model: Path,
    *,
    exports: list[dict[str, Any]] | None = None,
    evaluation: dict[str, Any] | None = None,
    destination: str | None = None,
    method: str = "lora",
    stage: Stage = Stage.EXPORT,
    uid: str = "uid-1",
    source: str = "hf://acme/tiny",
) -> Run:
    """A run whose plan is written and whose model folder is linked; claims are folders of `root`."""
    output = {"destination": destination} if destination else {}
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"source": source},
            "dataset": {"train": {"source": "pvc://data/train.jsonl"}},
            "method": {"type": method},
            "exports": exports or [],
            "evaluation": evaluation or {},
            "output": output,
        }
    )
    request = StageRequest(
        job=JobRef(namespace="team", name="bot", uid=uid), stage=stage, attempt=1, spec=spec, cpu_limit=2.0
    )
    workspace = Workspace(root / "workspace")
    workspace.root.mkdir(parents=True, exist_ok=True)
    if not workspace.model.exists():
        workspace.model.symlink_to(model)
    workspace.plan.write_text(make_plan(spec, model, source).model_dump_json(by_alias=True, exclude_none=True))
    return Run(request, workspace, lambda claim: root / "claims" / claim, RecordedProgress())


def progress_of(run: Run) -> RecordedProgress:
    """What the run's stage reported."""
    assert isinstance(run.progress, RecordedProgress)
    return run.progress


def parity_of(artifact: Artifact) -> dict[str, Any]:
    """Numbers of an artefact's parity, as Python has them."""
    assert artifact.parity is not None
    return artifact.parity.model_dump()


def make_plan(spec: FineTuneJobSpec, model: Path, source: str) -> Plan:
    """A plan for a tiny model."""
    memory = MemoryPlan(weights=1, gradients=1, optimizer=1, activations=1, logits=1, runtime=1, estimated_bytes=6)
    training = PlannedTraining(
        objective="sft",
        total_steps=10,
        epochs=1,
        batch_size=8,
        micro_batch_size=8,
        gradient_accumulation_steps=1,
        learning_rate=1e-3,
        warmup_steps=0,
        scheduler="constant",
        optimizer="adamw",
        max_length=128,
        packing=False,
        loss_on="assistant",
        precision="fp32",
        gradient_checkpointing=False,
        attention="sdpa",
        eval_every=0,
        checkpoint_every=5,
        log_every=1,
    )
    planned = PlannedModel(
        source=source,
        digest="sha256:" + "0" * 64,
        architecture="Tiny",
        parameters=_parameters(model),
        trainable_parameters=1,
        context_length=512,
    )
    return Plan(
        model=planned,
        method=PlannedMethod(type=spec.method.type, rank=8, alpha=16),
        training=training,
        strategy="none",
        metrics=["eval_loss", "perplexity", "exact-match", "rouge1", "rouge2", "rougeL", "bleu"],
        exports=spec.exports,
        memory=memory,
    )


def _parameters(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) // 4


def chat_rows(model: Path, questions: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Rows as stage prepare writes them, through the model's own chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for question, answer in (questions or QUESTIONS).items():
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}])["input_ids"]
        common = next(i for i in range(len(whole) + 1) if whole[:i] != prompt[:i] or i == len(prompt))
        rows.append(
            {
                "input_ids": whole,
                "completion_mask": [0] * common + [1] * (len(whole) - common),
                "prompt_ids": whole[:common],
                "reference": answer,
            }
        )
    return rows


def keep_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as an Arrow dataset."""
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(path))


def tune(run: Run, rows: list[dict[str, Any]], *, steps: int = 0, **lora: Any) -> None:
    """Write workspace.tuned: an adapter with random weights that matter, then trained on `rows` for `steps` steps.

    With method full the whole model is changed and written. Keywords go to LoraConfig.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(run.workspace.model, dtype=torch.float32)
    if run.spec.method.type == "lora":
        settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **lora}
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    _train(model, rows, steps)
    model.save_pretrained(run.workspace.tuned)
    AutoTokenizer.from_pretrained(run.workspace.model).save_pretrained(run.workspace.tuned)


def _train(model: Any, rows: list[dict[str, Any]], steps: int) -> None:
    import torch

    if not steps:
        return
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    mask = torch.tensor([row["completion_mask"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    labels = torch.where(mask.bool(), ids, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def make_tuned_run(root: Path, family: str = "llama", *, steps: int = 0, **settings: Any) -> Run:
    """A run that prepare and train have finished: held-out rows and train rows are the same questions."""
    model = build_tiny_model(family)
    run = make_run(root, model, **settings)
    rows = chat_rows(model)
    keep_rows(run.workspace.eval_rows, rows)
    keep_rows(run.workspace.train_rows, rows)
    tune(run, rows, steps=steps)
    return run
