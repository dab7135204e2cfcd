"""The estimate of prepare against the peak that training measures, each in a process of its own as in a pod.

The error over LoRA with and without dropout, full tuning, recomputed activations, fp32 and bf16 was -2 % to +11 % when
the formulas were fitted. An estimate that is too low lets the kernel kill a run, one that is too high refuses a job
that fits: hence a narrow bound below and a wider one above.
"""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.status import Stage
from tiny_models import SENTENCES, build_tiny_model
from trainer_requests import make_request, write_request

pytestmark = pytest.mark.trainer
TOO_LOW, TOO_HIGH = 0.9, 1.35
WORDS = " ".join(SENTENCES).split()


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose activations outweigh the interpreter, and long rows."""
    root = tmp_path_factory.mktemp("claims")
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
    build_tiny_model("llama", root / "models" / "tiny", vocab_size=4096, num_attention_heads=4, **sizes)
    chosen = random.Random(1)
    rows = [{"text": " ".join(chosen.choice(WORDS) for _ in range(90))} for _ in range(16)]
    (root / "data").mkdir()
    (root / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize(
    "parts",
    [
        {"method": {"type": "lora"}, "training": {"microBatchSize": 8}},
        {"method": {"type": "full"}, "training": {"microBatchSize": 4}},
        {"method": {"type": "lora"}, "training": {"microBatchSize": 8, "gradientCheckpointing": True}},
    ],
    ids=["lora", "full", "recomputed"],
)
def test_the_estimate_is_close_to_the_measured_peak(tmp_path: Path, claims: Path, parts: dict[str, Any]) -> None:
    training = {"maxSteps": 1, "batchSize": 8, "precision": "fp32", **parts["training"]}
    dataset = {"train": {"source": "pvc://data/train.jsonl"}, "evalFraction": 0}
    spec = {"task": "completion", "method": parts["method"], "training": training, "dataset": dataset}
    results = {stage: stage_result(tmp_path, claims, stage, spec) for stage in (Stage.PREPARE, Stage.TRAIN)}
    estimated = int(results[Stage.PREPARE]["plan"]["memory"]["estimatedBytes"])
    measured = int(results[Stage.TRAIN]["metrics"]["peakMemoryBytes"])
    assert TOO_LOW * measured <= estimated <= TOO_HIGH * measured


def stage_result(root: Path, claims: Path, stage: Stage, spec: dict[str, Any]) -> dict[str, Any]:
    """The stored result of `stage`, run through the command line in its own process."""
    request = write_request(root / f"{stage}.json", make_request(stage, **spec))
    places = ["--request", str(request), "--workspace", str(root / "workspace"), "--claims", str(claims), "--port", "0"]
    command = [sys.executable, "-m", "finetune_trainer.cli", stage, *places, "--termination-log", str(root / "message")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads((root / "workspace" / "results" / f"{stage}.json").read_text())
    return result
