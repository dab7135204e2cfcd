"""Stages evaluate and export of trained heads: what is measured, against what, and that artefacts compute the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from finetune_api.status import Evaluation, Stage
from finetune_trainer.errors import GateUnmetError
from finetune_trainer.evaluating.classes import QUESTION, told_by_head, told_by_words
from finetune_trainer.evaluating.rows import EvalRow, load_rows
from finetune_trainer.exporting import head_exporter, onnx_export
from finetune_trainer.models.load import load_tuned
from finetune_trainer.run import Run
from finetune_trainer.stages import evaluate, export
from head_jobs import TOPICS, head_run, make_root, trained

pytestmark = pytest.mark.trainer
TEXT, TAGS = "classification", "token-classification"
PARTS: dict[str, Any] = {"training": {"maxSteps": 24}, "method": {"type": "lora", "targetModules": ".*(proj|score)"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("results"), rows=60)
    for task in (TEXT, TAGS):
        trained(root, task, task, **PARTS)
    return root


def evaluated(root: Path, task: str, **evaluation: Any) -> tuple[Run, Evaluation]:
    run = head_run(root, Stage.EVALUATE, task, task, **PARTS, evaluation=evaluation)
    found = evaluate.execute(run).evaluation
    assert found is not None
    return run, found


def held_rows(run: Run) -> list[EvalRow]:
    return load_rows(run.workspace.eval_rows, 100, 0)


def samples_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.workspace.root / "results" / "samples.jsonl").read_text().splitlines()]


def test_a_classifier_is_compared_with_the_untouched_model_that_chooses_a_name(root: Path) -> None:
    run, found = evaluated(root, TEXT, gates=[{"metric": "accuracy", "improvesBaselineBy": 0.3}])
    assert set(found.tuned) == set(found.baseline) == {"eval_loss", "accuracy", "f1", "precision", "recall"}
    assert found.tuned["accuracy"] == 1
    assert [gate.passed for gate in found.gates] == [True]
    base = AutoModelForCausalLM.from_pretrained(run.workspace.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.workspace.model)
    hits, nll = 0, 0.0
    for row in held_rows(run):
        scores = torch.tensor([plain_likelihood(base, tokenizer, row, name) for name in sorted(TOPICS)])
        hits += int(scores.argmax()) == row.classes[0]
        nll -= float(scores.log_softmax(0)[row.classes[0]])
    assert found.baseline["accuracy"] == pytest.approx(hits / found.rows)
    assert found.baseline["eval_loss"] == pytest.approx(nll / found.rows, rel=1e-4)
    sample = samples_of(run)[0]
    assert {*sample} == {"row", "text", "reference", "baseline", "tuned"}
    assert sample["tuned"] == sample["reference"]
    assert TOPICS[sample["reference"]] in sample["text"]
    assert sample["baseline"] in TOPICS


def plain_likelihood(model: Any, tokenizer: Any, row: EvalRow, name: str) -> float:
    """Mean log-likelihood of a token of the name, one sequence at a time and without a cache."""
    asked = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{QUESTION} {name}", add_special_tokens=False)["input_ids"]
    assert whole[: len(asked)] == asked
    ids = torch.tensor([row.input_ids + whole])
    start = len(row.input_ids) + len(asked)
    log_probs = model(ids).logits[0].log_softmax(-1)
    return float(np.mean([log_probs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]))


@pytest.mark.parametrize("family", ["gemma3", "phi3"])
def test_asking_for_a_name_from_the_cache_is_asking_without_one(family: str) -> None:
    from finetune_trainer.models.load import load_model, load_tokenizer
    from tiny_models import build_tiny_model

    path = build_tiny_model(family)
    model, tokenizer = load_model(path, "fp32", "sdpa"), load_tokenizer(path)
    rows = [EvalRow(0, tokenizer(text)["input_ids"], [], [], "", [i]) for i, text in enumerate(TOPICS.values())]
    names = ["earn", "crude oil", "mergers and acquisitions"]
    told = told_by_words(model, tokenizer, rows, names)
    for i, row in enumerate(rows):
        scores = torch.tensor([plain_likelihood(model, tokenizer, row, name) for name in names])
        assert told.classes[i] == [int(scores.argmax())]
        assert told.losses[i][0] == pytest.approx(-float(scores.log_softmax(0)[i]), rel=1e-3)


def test_a_tagger_is_compared_with_the_most_frequent_tag(root: Path) -> None:
    run, found = evaluated(root, TAGS)
    assert found.tuned["seqeval"] > 0.9
    assert found.baseline["seqeval"] == 0
    rows = held_rows(run)
    outside = [tag == 4 - 1 for row in rows for tag in row.classes]
    assert found.baseline["accuracy"] == pytest.approx(np.mean(outside))
    assert 0.5 < found.baseline["eval_loss"] < 1.4
    sample = samples_of(run)[0]
    assert {*sample["baseline"].split()} == {"O"}
    assert len(sample["tuned"].split()) == len(sample["reference"].split()) == len(sample["text"].split())
    record = json.loads((run.workspace.root / "results" / "comparison.json").read_text())
    assert {d["metric"]: d["verdict"] for d in record["differences"]}["seqeval"] == "better"


def test_an_unmet_gate_ends_the_job(root: Path) -> None:
    with pytest.raises(GateUnmetError, match="seqeval must be at most"):
        evaluated(root, TAGS, gates=[{"metric": "seqeval", "atMost": 0.1}], baseline=False)


def test_batching_changes_nothing_that_is_told(root: Path) -> None:
    run = head_run(root, Stage.EVALUATE, TAGS, TAGS, **PARTS)
    model, rows = load_tuned(run), held_rows(run)
    together = told_by_head(model, rows)
    for i, row in enumerate(rows):
        alone = told_by_head(model, [row])
        assert alone.classes == [together.classes[i]]
        assert alone.losses[0] == pytest.approx(together.losses[i], rel=1e-4)


def exported(root: Path, task: str, exports: list[dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Folder and report of the artefacts."""
    destination = {"destination": f"pvc://out/{task}"}
    run = head_run(root, Stage.EXPORT, task, task, **PARTS, exports=exports, output=destination)
    plan = run.plan.model_copy(update={"exports": run.spec.exports})
    run.workspace.plan.write_text(plan.model_dump_json(by_alias=True, exclude_none=True))
    run = head_run(root, Stage.EXPORT, task, task, **PARTS, exports=exports, output=destination)
    (root / "claims" / "out").mkdir(exist_ok=True)
    export.execute(run)
    folder = root / "claims" / "out" / task
    return folder, json.loads((folder / "report.json").read_text())


PEFT_AND_WHOLE = [{"name": "adapter", "format": "peft"}, {"name": "merged", "format": "safetensors"}]
BY_TASK = {TEXT: AutoModelForSequenceClassification, TAGS: AutoModelForTokenClassification}


def usual_logits(model: Any, run: Run) -> list[torch.Tensor]:
    """As an application gets them: a right-padded batch through the model's own forward."""
    tokenizer = AutoTokenizer.from_pretrained(run.workspace.model)
    rows = held_rows(run)[:4]
    batch = tokenizer.pad({"input_ids": [row.input_ids for row in rows]}, return_tensors="pt", padding_side="right")
    with torch.inference_mode():
        logits = model(**batch).logits
    return [part if part.ndim == 1 else part[: len(row.input_ids)] for part, row in zip(logits, rows, strict=True)]


@pytest.mark.parametrize("task", [TEXT, TAGS])
def test_artifacts_load_with_plain_libraries_and_tell_the_same(root: Path, task: str) -> None:
    folder, report = exported(root, task, PEFT_AND_WHOLE)
    assert all(artifact["parity"]["passed"] for artifact in report["artifacts"])
    run = head_run(root, Stage.EXPORT, task, task, **PARTS)
    whole = BY_TASK[task].from_pretrained(folder / "merged").eval()
    base = BY_TASK[task].from_pretrained(
        run.workspace.model, num_labels=whole.config.num_labels, pad_token_id=whole.config.pad_token_id
    )
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    for ours, theirs in zip(usual_logits(whole, run), usual_logits(adapted, run), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    told = told_by_head(load_tuned(run), held_rows(run)).classes
    places = [[i for i, bit in enumerate(row.completion_mask) if bit] for row in held_rows(run)]
    for i, logits in enumerate(usual_logits(whole, run)):
        got = [int(logits.argmax())] if task == TEXT else logits[places[i]].argmax(-1).tolist()
        assert got == told[i]
    card = (folder / "README.md").read_text()
    pipeline = {TEXT: "text-classification", TAGS: "token-classification"}[task]
    assert f"pipeline_tag: {pipeline}" in card
    assert "vllm" not in card
    assert "adapter_model" not in str([*(folder / "merged").iterdir()])


def test_onnx_models_of_a_tagger_pass_the_gate_on_class_logits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_here(
        model: Path, output: Path, *, precision: str, scratch: Path, threads: int, builder: str
    ) -> None:  # a process of its own imports everything again; test_docs_tasks.py has one
        assert builder == "head_exporter"
        head_exporter.build(model, output, scratch / "builder", precision)

    monkeypatch.setattr(onnx_export, "build", build_here)
    exports = [{"name": "onnx", "format": "onnx"}, {"name": "onnx-int8", "format": "onnx", "precision": "int8"}]
    folder, report = exported(root, TAGS, exports)
    full, small = report["artifacts"]
    assert float(full["parity"]["maxAbs"]) < 1e-3
    assert 0 < float(small["parity"]["kl"]) < 1e-3
    assert full["checks"]["paddingGap"] < 1e-4
    assert small["sizeBytes"] < 0.6 * full["sizeBytes"]
    assert b"site-packages" not in (folder / "onnx" / "model.onnx").read_bytes()
