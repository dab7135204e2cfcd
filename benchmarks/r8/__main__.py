"""Trains a LoRA classifier on all of Reuters R8, judges it on the test split, and a linear model on the same rows.

Model and data come out of packages of the Python index, as in the demo. The job runs on this machine, each stage in a
process of its own, as `finetune-trainer run` runs it. Begun again after an interruption, it goes on from the last
checkpoint.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from demo.assets import assets, stories
from finetune_api.status import Stage
from finetune_trainer.run import Workspace
from local_cluster import locations

Rows = list[dict[str, str]]
SEED = 42
CHECKPOINT_STEPS = 20
"""Optimizer steps between checkpoints: some minutes of two cores."""


def main(arguments: list[str] | None = None) -> int:
    """Print both accuracies; the exit code is the job's."""
    parser = argparse.ArgumentParser(prog="r8", description=__doc__)
    work = locations.from_environment().cache / "r8"
    parser.add_argument("--work", type=Path, default=work, help="folder for rows, workspace and artefacts")
    parser.add_argument("--steps", type=int, default=343, help="optimizer steps of 16 rows; 343 are one epoch")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a story that are read")
    parser.add_argument("--test-rows", type=int, help="a sample of so many test rows; all when absent")
    options = parser.parse_args(arguments)
    rows = {
        "train": _split(options.work / "r8", "train"),
        "test": _split(options.work / "r8", "test", options.test_rows),
    }
    print(f"linear model on tf-idf: accuracy {_linear(rows):.4f} on {len(rows['test'])} test rows", flush=True)
    job = options.work / "job.yaml"
    job.write_text(yaml.safe_dump(_job(options.steps, options.max_length, len(rows["test"]))))
    start = time.monotonic()
    code = _run(job, options.work)
    if code == 0:
        results = Workspace(options.work / "run" / "workspace").result(Stage.EVALUATE)
        found = json.loads(results.read_text())["evaluation"]["tuned"]
        print(f"SmolLM2-135M with LoRA: accuracy {found['accuracy']}, macro F1 {found['f1']}, eval_loss "
              f"{found['eval_loss']}; {time.monotonic() - start:.0f} s in all")  # fmt: skip
    return code


def _split(folder: Path, name: str, sample: int | None = None) -> Rows:
    """Rows of a split of R8, or a sample of them, written to folder/<name>.jsonl too."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"text": " ".join(text.split()), "label": topic} for topic, text in stories(name)]
    rows = random.Random(SEED).sample(rows, sample) if sample else rows  # noqa: S311
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _linear(rows: dict[str, Rows]) -> float:
    """Accuracy of a linear support vector machine on tf-idf of whole stories."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
    from sklearn.svm import LinearSVC  # type: ignore[import-untyped]

    texts, labels = ([[row[name] for row in rows[part]] for part in ("train", "test")] for name in ("text", "label"))
    counts = TfidfVectorizer(sublinear_tf=True)
    model = LinearSVC().fit(counts.fit_transform(texts[0]), labels[0])
    return float(model.score(counts.transform(texts[1]), labels[1]))


def _job(steps: int, max_length: int, test_rows: int) -> dict[str, Any]:
    return {
        "apiVersion": "slmops.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "r8"},
        "spec": {
            "task": "classification",
            "model": {"source": "pvc://assets/SmolLM2-135M-Instruct"},
            "dataset": {
                "train": {"source": "pvc://r8/train.jsonl"},
                "eval": {"source": "pvc://r8/test.jsonl"},
                "maxLength": max_length,
                "overLength": "truncate",
            },
            "method": {"type": "lora", "rank": 16, "dropout": 0},
            "training": {"maxSteps": steps, "batchSize": 16, "evalEvery": steps, "checkpointEvery": CHECKPOINT_STEPS},
            "evaluation": {"maxRows": test_rows, "baseline": False},
        },
    }


def _run(job: Path, work: Path) -> int:
    claims = [f"assets={assets()}", f"r8={work / 'r8'}"]
    places = [argument for claim in claims for argument in ("--claim", claim)]
    command = [sys.executable, "-m", "finetune_trainer.cli", "run", "--job", str(job), "--output", str(work / "run")]
    return subprocess.run([*command, *places], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
