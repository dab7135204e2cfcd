"""The estimate of prepare against the peak that training measures, for a model of real size on a CPU.

Model and stories come out of packages of the Python index, as in the demo. Every point is a job of two steps on this
machine, each stage in a process of its own, as `finetune-trainer run` runs it.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from demo.assets import assets
from local_cluster import locations

STORIES_PER_ROW = 24
"""Enough for every row to be cut at the longest length below."""
ROWS = 24
VARIED = 6
"""Most stories of a row where lengths vary."""
MODEL = "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Point:
    """One job: method, number format, rows of a micro batch and tokens of a row."""

    task: str
    method: str
    precision: str
    micro_batch: int
    length: int
    training: dict[str, Any] = field(default_factory=dict)
    """Further fields of spec.training."""
    varied: bool = False
    """Rows of many lengths, as in real work."""

    @property
    def name(self) -> str:
        """Its cells in the table."""
        extra = ", ".join(["many lengths"] * self.varied + [f"{key}: {value}" for key, value in self.training.items()])
        return f"{self.method} | {self.precision} | {self.task} | {self.micro_batch} x {self.length} | {extra}"


RECOMPUTED = {"gradientCheckpointing": True}
POINTS = (
    Point("classification", "lora", "fp32", 8, 128, varied=True),
    Point("classification", "lora", "fp32", 8, 128),
    Point("classification", "lora", "fp32", 1, 64),
    Point("completion", "lora", "fp32", 4, 256),
    Point("completion", "lora", "bf16", 4, 256),
    Point("completion", "lora", "fp32", 1, 512),
    Point("completion", "lora", "fp32", 4, 256, RECOMPUTED),
    Point("completion", "full", "fp32", 4, 128),
    Point("completion", "qlora", "fp32", 4, 128),
    Point("completion", "dora", "fp32", 4, 128),
    Point("completion", "dora", "bf16", 4, 128),
    Point("completion", "qlora", "bf16", 4, 128),
    Point("completion", "adapter", "fp32", 4, 128),
    Point("completion", "full", "bf16", 4, 128),
)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 when a job failed."""
    parser = argparse.ArgumentParser(prog="memory", description=__doc__)
    work = locations.from_environment().cache / "memory"
    parser.add_argument("--work", type=Path, default=work, help="folder for rows and workspaces")
    parser.add_argument("--points", type=int, nargs="*", help="numbers of points, from 0; all when absent")
    options = parser.parse_args(arguments)
    _write_rows(options.work / "rows")
    print("method | precision | task | rows x tokens | besides | estimate | peak | ratio\n--|--|--|--|--|--|--|--")
    failed = False
    for number in options.points if options.points is not None else range(len(POINTS)):
        memory = _measured(POINTS[number], options.work, options.work / f"point-{number}")
        failed |= memory is None
        print(f"{POINTS[number].name} | {_cells(memory)}", flush=True)
    return int(failed)


def _write_rows(folder: Path) -> None:
    """Rows of one length, and of many, for both tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (assets() / "reuters-r8" / "train.jsonl").read_text().splitlines()
    stories = [json.loads(line) for line in lines]
    texts = [story["prompt"] for story in stories]
    joined = [" ".join(texts[i : i + STORIES_PER_ROW]) for i in range(ROWS)]
    varied = [" ".join(texts[i : i + 1 + i % VARIED]) for i in range(VARIED * ROWS)]
    for name, chosen in {"varied": varied, "long": joined}.items():
        rows = [{"text": text, "label": ("a", "b")[i % 2]} for i, text in enumerate(chosen)]
        (folder / f"{name}-classification.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        plain = [{"text": text} for text in chosen]
        (folder / f"{name}-completion.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))


def _job(point: Point) -> dict[str, Any]:
    rows = f"pvc://rows/{'varied' if point.varied else 'long'}-{point.task}.jsonl"
    steps = {"maxSteps": 12 if point.varied else 3, "batchSize": point.micro_batch}
    batch = {**steps, "microBatchSize": point.micro_batch, "precision": point.precision}
    data = {"train": {"source": rows}, "maxLength": point.length, "overLength": "truncate", "evalFraction": 0}
    spec = {
        "task": point.task,
        "model": {"source": f"pvc://assets/{MODEL}"},
        "dataset": data,
        "method": {"type": point.method},
        "training": {"gradientCheckpointing": False, **batch, **point.training},
    }
    return {"apiVersion": "slmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "memory"}, "spec": spec}


def _measured(point: Point, work: Path, folder: Path) -> dict[str, int] | None:
    """The plan's memory with the measured peak, in bytes; None when the job failed."""
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(_job(point)))
    command = [sys.executable, "-m", "finetune_trainer.cli", "run", "--job", str(job), "--output", str(folder / "run")]
    places = ["--claim", f"assets={assets()}", "--claim", f"rows={work / 'rows'}"]
    stages = ["--stage", "prepare", "--stage", "train"]
    with (folder / "log").open("w") as log:
        done = subprocess.run([*command, *places, *stages], check=False, stdout=log, stderr=log)
    if done.returncode:
        return None
    result = json.loads((folder / "run" / "workspace" / "results" / "train.json").read_text())
    found: dict[str, int] = result["plan"]["memory"]
    return found


def _cells(memory: dict[str, int] | None) -> str:
    if memory is None:
        return "failed | | "
    estimate, peak = memory["estimatedBytes"], memory["measuredPeakBytes"]
    return f"{estimate / 2**20:.0f} | {peak / 2**20:.0f} | {estimate / peak:.2f}"


if __name__ == "__main__":
    sys.exit(main())
