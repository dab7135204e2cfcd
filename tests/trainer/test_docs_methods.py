"""docs/methods.md: every manifest it names runs from prepare to export, as the local runner runs it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_api.exit_codes import ExitCode
from finetune_trainer import local_run
from finetune_trainer.cli import main
from tiny_models import SENTENCES, build_tiny_model
from tuned_runs import QUESTIONS

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).parents[2]
VLLM_RANK = 16
"""Ranks that vLLM takes without --max-lora-rank."""
MANIFESTS = sorted((ROOT / "examples" / "methods").glob("*.yaml"))


def test_the_page_names_every_manifest() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    assert {*re.findall(r"\(\.\./examples/methods/(\w+)\.yaml\)", page)} == {path.stem for path in MANIFESTS}


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """The claims that the manifests speak of, with a tiny model, 16 conversations, as many preferences, and texts."""
    build_tiny_model("qwen2", tmp_path / "models" / "SmolLM2-135M-Instruct")
    turns = [
        [{"role": "user", "content": f"{question} ({i})"}, {"role": "assistant", "content": answer}]
        for i in range(2)
        for question, answer in QUESTIONS.items()
    ]
    (tmp_path / "datasets").mkdir()
    lines = [json.dumps({"messages": messages}) + "\n" for messages in turns]
    (tmp_path / "datasets" / "support.jsonl").write_text("".join(lines))
    for part, name in enumerate(("billing", "returns")):
        (tmp_path / "datasets" / f"{name}.jsonl").write_text("".join(lines[part::2] * 2))
    write_preferences(tmp_path / "datasets")
    write_adapter(tmp_path / "models" / "SmolLM2-135M-Instruct", tmp_path / "models" / "earlier-adapter")
    (tmp_path / "models" / "SmolLM2-135M").symlink_to("SmolLM2-135M-Instruct")
    texts = (json.dumps({"text": " ".join(SENTENCES[i : i + 3])}) + "\n" for i in range(10))
    (tmp_path / "datasets" / "corpus.jsonl").write_text("".join(texts))
    return tmp_path


def write_adapter(model: Path, folder: Path) -> None:
    """A LoRA adapter of the default rank."""
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)


def write_preferences(folder: Path) -> None:
    """The same answers, once each against one that is not wanted, once with a verdict."""
    asked = [(f"{question} ({i})", answer) for i in range(2) for question, answer in QUESTIONS.items()]
    pairs = [{"prompt": question, "chosen": answer, "rejected": "I cannot say"} for question, answer in asked]
    verdicts = [
        {"prompt": question, "completion": answer if i % 2 else "I cannot say", "label": bool(i % 2)}
        for i, (question, answer) in enumerate(asked)
    ]
    for name, rows in (("preferences", pairs), ("verdicts", verdicts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifest_runs_to_its_end(claims: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The stages run in this process, through the same command line: seven times four interpreters take minutes.
    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, main(command[command.index("finetune_trainer.cli") + 1 :]))

    monkeypatch.setattr(local_run.subprocess, "run", run_here)
    named = ["--claim", f"models={claims / 'models'}", "--claim", f"datasets={claims / 'datasets'}"]
    assert main(["run", "--job", str(manifest), "--output", str(claims / "out"), *named]) == ExitCode.DONE
    [published] = (claims / "models").glob("support-*")
    report = json.loads((published / "report.json").read_text())
    assert report["complete"]
    adapters = report["plan"]["adapters"]
    assert [artifact["format"] for artifact in report["artifacts"]][-1] == ("peft" if adapters else "safetensors")
    assert all(artifact["parity"]["passed"] for artifact in report["artifacts"])
    card = (published / "README.md").read_text()
    assert ("--enable-lora" in card) is (report["plan"]["method"]["type"] in ("lora", "qlora"))
    assert ("vLLM does not load" in card) is (report["plan"]["method"]["type"] in ("dora", "adapter"))
    if "--enable-lora" in card:
        ranks = [json.loads(file.read_text())["r"] for file in published.glob("*/adapter_config.json")]
        assert max(ranks) <= max(map(int, re.findall(r"--max-lora-rank (\d+)", card)), default=VLLM_RANK)
    measured = report["evaluation"]["adapters"] or [report["evaluation"]]
    assert len(measured) == max(1, len(adapters))
    for one in measured:
        assert float(one["tuned"]["eval_loss"]) < float(one["baseline"]["eval_loss"])
