"""The estimate of prepare against the peak that training measures, each in a process of its own as in a pod.

The error over LoRA with and without dropout, full tuning, recomputed activations, fp32 and bf16 was -2 % to +11 % when
the formulas were fitted. An estimate that is too low lets the kernel kill a run, one that is too high refuses a job
that fits: hence a narrow bound below and a wider one above.
"""

import json
import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from finetune_api.status import Stage
from finetune_trainer.ownership import job_folder
from finetune_trainer.run import Workspace
from finetune_trainer.stages import prepare
from tiny_models import SENTENCES, build_tiny_model
from trainer_requests import UID, make_request, make_run, write_request

pytestmark = pytest.mark.trainer
TOO_LOW, TOO_HIGH = 0.9, 1.35
WORDS = " ".join(SENTENCES).split()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose activations outweigh the interpreter, and long rows."""
    root = tmp_path_factory.mktemp("root")
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
    build_tiny_model("llama", root / "claims" / "models" / "tiny", vocab_size=4096, num_attention_heads=4, **sizes)
    chosen = random.Random(1)
    rows = [{"text": " ".join(chosen.choice(WORDS) for _ in range(90))} for _ in range(16)]
    (root / "claims" / "data").mkdir()
    (root / "claims" / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tagged = [{"tokens": row["text"].split(), "tags": [word[0] for word in row["text"].split()]} for row in rows]
    (root / "claims" / "data" / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tagged))
    pairs = [{"prompt": "Why? ", "chosen": a["text"], "rejected": b["text"]} for a, b in pairwise(rows)]
    (root / "claims" / "data" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return root


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ({"type": "lora"}, {"microBatchSize": 8}),
        ({"type": "lora"}, {"microBatchSize": 8, "gradientCheckpointing": True}),
        ({"type": "qlora"}, {"microBatchSize": 8, "optimizer": "adamw-8bit"}),
        ({"type": "dora"}, {"microBatchSize": 4}),
        ({"type": "adapter"}, {"microBatchSize": 8}),
        ({"type": "full"}, {"microBatchSize": 4}),
    ],
    ids=["lora", "recomputed", "qlora", "dora", "ia3", "full"],
)
def test_the_estimate_is_close_to_the_measured_peak(
    tmp_path: Path, root: Path, method: dict[str, Any], training: dict[str, Any]
) -> None:
    assert_close(tmp_path, root, "completion", "train.jsonl", method, training)


def test_the_estimate_of_a_head_is_as_close(tmp_path: Path, root: Path) -> None:
    assert_close(tmp_path, root, "token-classification", "tags.jsonl", {"type": "lora"}, {"microBatchSize": 8})


def assert_close(
    tmp_path: Path, root: Path, task: str, data: str, method: dict[str, Any], training: dict[str, Any]
) -> None:
    spec = {
        "task": task,
        "method": method,
        "training": {"maxSteps": 2, "batchSize": 8, "precision": "fp32", **training},
        "dataset": {"train": {"source": f"pvc://data/{data}"}, "evalFraction": 0},
    }
    folder = job_folder(tmp_path / "workspace", UID)
    plan = prepare.execute(replace(make_run(root, **spec), workspace=Workspace(folder))).plan
    assert plan is not None
    measured = peak_of_training(tmp_path, root, spec)
    assert TOO_LOW * measured <= plan.memory.estimated_bytes <= TOO_HIGH * measured


def test_a_pair_is_two_sequences_in_the_estimate_too(tmp_path: Path, root: Path) -> None:
    spec = {
        "task": "preference",
        "training": {"objective": "dpo", "maxSteps": 2, "batchSize": 4, "microBatchSize": 4, "precision": "fp32"},
        "dataset": {"train": {"source": "pvc://data/pairs.jsonl"}, "evalFraction": 0},
    }
    folder = job_folder(tmp_path / "workspace", UID)
    plan = prepare.execute(replace(make_run(root, **spec), workspace=Workspace(folder))).plan
    assert plan is not None
    measured = peak_of_training(tmp_path, root, spec)
    assert TOO_LOW * measured <= plan.memory.estimated_bytes <= TOO_HIGH * measured


def peak_of_training(work: Path, root: Path, spec: dict[str, Any]) -> int:
    """Peak of stage train in bytes, run through the command line in its own process."""
    request = write_request(work / "train.json", make_request(Stage.TRAIN, **spec))
    places = ["--workspace", str(work / "workspace"), "--claims", str(root / "claims"), "--port", "0"]
    command = [sys.executable, "-m", "finetune_trainer.cli", "train", "--request", str(request), *places]
    done = subprocess.run(
        [*command, "--termination-log", str(work / "message")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((work / "workspace" / "results" / "train.json").read_text())
    return int(result["metrics"]["peakMemoryBytes"])
