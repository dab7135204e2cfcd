"""docs/methods.md: every manifest of examples/tasks runs from prepare to export, as the local runner runs it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_trainer import local_run
from finetune_trainer.cli import main
from head_jobs import entity_rows, topic_rows, write_rows
from order_rows import order_rows
from tiny_models import build_tiny_model

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "examples" / "tasks").glob("*.yaml"))


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
    build_tiny_model("qwen2", tmp_path / "models" / "SmolLM2-135M-Instruct")
    topics = [{"body": row["text"], "topic": row["label"]} for row in topic_rows(60)]
    write_rows(tmp_path / "datasets" / "topics.jsonl", topics)
    write_rows(tmp_path / "datasets" / "entities.jsonl", entity_rows(60))
    write_rows(tmp_path / "datasets" / "orders.jsonl", order_rows(60))
    named = ["--claim", f"models={tmp_path / 'models'}", "--claim", f"datasets={tmp_path / 'datasets'}"]
    assert main(["run", "--job", str(manifest), "--output", str(tmp_path / "out"), *named]) == ExitCode.DONE
    report = json.loads((tmp_path / "models" / manifest.stem / "report.json").read_text())
    assert report["complete"]
    assert all(artifact["parity"]["passed"] for artifact in report["artifacts"])
    assert all(gate["passed"] for gate in report["evaluation"]["gates"])
    if manifest.stem == "extraction":
        assert {"json-valid", "f1", "exact-match"} <= {*report["evaluation"]["tuned"]}
        return
    labels = [entry["label"] for entry in report["dataset"]["labels"]]
    assert len(labels) == report["dataset"]["labelCount"] == (4 if manifest.stem == "entities" else 3)
    card = (tmp_path / "models" / manifest.stem / "README.md").read_text()
    assert all(f"| `{label}` |" in card for label in labels)
    if "onnx" in card:
        monkeypatch.chdir(tmp_path / "models" / manifest.stem)
        for row in topic_rows(3):
            assert said_by(card, row["text"]) == [row["label"]]


def said_by(card: str, text: str) -> list[str]:
    """What the last snippet of the card prints for `text`."""
    snippet = card.split("```python\n")[-1].split("```")[0]
    said: list[str] = []
    exec(snippet.replace("A text.", text), {"print": lambda value: said.extend(value)})  # noqa: S102 - our own words
    return said
