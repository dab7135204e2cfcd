"""What an evaluation leaves in the workspace for people and for the report: the comparison and a few answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.evaluating.comparing import CONFIDENCE, RESAMPLES, Difference
from finetune_trainer.evaluating.measuring import Measurement, Task
from finetune_trainer.result import write_atomically
from finetune_trainer.run import Workspace

SAMPLES = 10


def keep_samples(workspace: Workspace, task: Task, tuned: Measurement, baseline: Measurement | None) -> None:
    """Write the first SAMPLES answers to results/samples.jsonl: row, prompt, baseline, tuned, reference, notes."""
    write_samples(workspace, _samples(task, tuned, baseline))


def write_samples(workspace: Workspace, samples: Sequence[dict[str, Any]]) -> None:
    """Write `samples` to results/samples.jsonl, one a line."""
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    write_atomically(samples_path(workspace), "".join(lines).encode())


def keep_comparison(workspace: Workspace, differences: Sequence[Difference]) -> None:
    """Write the differences with their confidence intervals to results/comparison.json."""
    document = {
        "method": f"paired bootstrap over rows, {RESAMPLES} resamples, percentile interval",
        "confidence": CONFIDENCE,
        "differences": [d.to_json() for d in differences],
    }
    write_atomically(comparison_path(workspace), json.dumps(document, indent=2).encode())


def samples_path(workspace: Workspace) -> Path:
    """File of sample answers."""
    return workspace.results / "samples.jsonl"


def comparison_path(workspace: Workspace) -> Path:
    """File of differences."""
    return workspace.results / "comparison.json"


def _samples(task: Task, tuned: Measurement, baseline: Measurement | None) -> list[dict[str, Any]]:
    return [
        {
            "row": row.index,
            "prompt": task.tokenizer.decode(row.prompt_ids),
            "baseline": baseline.answers[i].text if baseline else None,
            "tuned": tuned.answers[i].text,
            "reference": row.reference,
            **task.notes(row),
        }
        for i, row in enumerate(task.answered[:SAMPLES])
    ]
