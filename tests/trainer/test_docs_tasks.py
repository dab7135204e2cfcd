"""docs/methods.md: every manifest of examples/tasks runs from prepare to export, as the local runner runs it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from finetune_api.exit_codes import ExitCode
from finetune_trainer import local_run
from finetune_trainer.cli import main
from finetune_trainer.run import Workspace
from head_jobs import entity_rows, topic_rows, write_rows
from order_rows import order_rows
from summary_rows import summary_rows
from tiny_models import build_long_model, build_tiny_model
from tool_rows import learned_texts, tool_rows

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "examples" / "tasks").glob("*.yaml"))
METRICS = {
    "extraction": {"json-valid", "f1", "exact-match"},
    "summarization": {"rouge1", "rouge2", "rougeL"},
    "calls": {"eval_loss", "exact-match"},
}
"""Those of generated answers; tasks that have none get a head of classes."""


def test_the_page_names_every_manifest() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    assert {*re.findall(r"\(\.\./examples/tasks/(\w+)\.yaml\)", page)} == {path.stem for path in MANIFESTS}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifest_runs_to_its_end(tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def run_here(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        if "finetune_trainer.cli" not in command:  # the process that writes an ONNX model
            return run(command, **options)
        return subprocess.CompletedProcess(command, main(command[command.index("finetune_trainer.cli") + 1 :]))

    monkeypatch.setattr(local_run.subprocess, "run", run_here)
    write_claims(tmp_path)
    named = ["--claim", f"models={tmp_path / 'models'}", "--claim", f"datasets={tmp_path / 'datasets'}"]
    assert main(["run", "--job", str(manifest), "--output", str(tmp_path / "out"), *named]) == ExitCode.DONE
    report = json.loads((tmp_path / "models" / manifest.stem / "report.json").read_text())
    assert report["complete"]
    assert all(artifact["parity"]["passed"] for artifact in report["artifacts"])
    assert all(gate["passed"] for gate in report["evaluation"]["gates"])
    if manifest.stem == "calls":
        assert texts_with_loss(Workspace(tmp_path / "out" / "workspace")) == learned_texts()
    if manifest.stem in METRICS:
        assert METRICS[manifest.stem] <= {*report["evaluation"]["tuned"]}
        return
    labels = [entry["label"] for entry in report["dataset"]["labels"]]
    assert len(labels) == report["dataset"]["labelCount"] == (4 if manifest.stem == "entities" else 3)
    card = (tmp_path / "models" / manifest.stem / "README.md").read_text()
    assert all(f"| `{label}` |" in card for label in labels)
    if "onnx" in card:
        monkeypatch.chdir(tmp_path / "models" / manifest.stem)
        for row in topic_rows(3):
            assert said_by(card, row["text"]) == [row["label"]]


def write_claims(root: Path) -> None:
    """The claims that the manifests speak of."""
    build_tiny_model("qwen2", root / "models" / "SmolLM2-135M-Instruct")
    build_long_model("qwen2", root / "models" / "Qwen2.5-0.5B-Instruct")
    topics = [{"body": row["text"], "topic": row["label"]} for row in topic_rows(60)]
    rows = {"topics": topics, "entities": entity_rows(60), "orders": order_rows(60), "minutes": summary_rows(60)}
    for name, wanted in (rows | {"calls": tool_rows(30)}).items():
        write_rows(root / "datasets" / f"{name}.jsonl", wanted)


def texts_with_loss(workspace: Workspace) -> set[str]:
    """What the label masks of the train rows cover."""
    tokenizer = AutoTokenizer.from_pretrained(workspace.tuned)
    return {
        tokenizer.decode([token for token, mark in zip(row["input_ids"], row["completion_mask"], strict=True) if mark])
        for row in load_from_disk(str(workspace.train_rows))
    }


def said_by(card: str, text: str) -> list[str]:
    """What the last snippet of the card prints for `text`."""
    snippet = card.split("```python\n")[-1].split("```")[0]
    said: list[str] = []
    exec(snippet.replace("A text.", text), {"print": lambda value: said.extend(value)})  # noqa: S102 - our own words
    return said
