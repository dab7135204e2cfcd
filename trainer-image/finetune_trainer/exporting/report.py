"""report.json beside the artefacts: the whole story of a job, and the mark of who owns the destination.

Written before the first artefact and after each one, so that a killed export knows what it had finished. Must not
measure.
"""

import json
import platform
from importlib import metadata
from typing import Any

from finetune_api.spec import Export
from finetune_api.status import Artifact, Stage
from finetune_trainer.evaluating.records import comparison_path
from finetune_trainer.exporting.digests import FileRecord, digest
from finetune_trainer.exporting.gate import Proof
from finetune_trainer.exporting.publishing import REPORT, Destination
from finetune_trainer.named_adapters.runs import adapter_runs
from finetune_trainer.run import Run

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-genai",
    "sacrebleu",
)


class Report:
    """report.json of one job."""

    def __init__(self, run: Run, destination: Destination) -> None:
        self._run, self._destination = run, destination
        self._entries: dict[str, dict[str, Any]] = {}

    def reopen(self) -> None:
        """Keep the artefacts that an earlier call of this job finished and that are still whole."""
        if self._destination.owner() != self._run.request.job.uid:
            return
        known = json.loads(self._destination.read(REPORT) or b"{}")["artifacts"]
        wanted = {export.name: export for export in self._run.plan.exports}
        for entry in known:
            name = entry["name"]
            if name in wanted and entry["export"] == _asked(wanted[name]) and self._whole(entry):
                self._entries[name] = entry

    def has(self, name: str) -> bool:
        """Whether the artefact is finished."""
        return name in self._entries

    def add(self, export: Export, precision: str, files: list[FileRecord], proof: Proof) -> None:
        """Record a published artefact."""
        artifact = Artifact(
            name=export.name,
            format=export.format,
            precision=precision,
            uri=f"{self._destination.uri}/{export.name}",
            size_bytes=sum(file.size for file in files),
            digest=digest(files),
            parity=proof.parity,
            tokens_per_second=proof.tokens_per_second,
        )
        self._entries[export.name] = {
            **artifact.to_json(),
            "export": _asked(export),
            "checks": proof.checks,
            "files": [file.to_json() for file in files],
        }
        self.write(complete=False)

    @property
    def artifacts(self) -> list[Artifact]:
        """What was published, in the order of the plan."""
        entries = [self._entries[e.name] for e in self._run.plan.exports if e.name in self._entries]
        return [Artifact.model_validate({k: v for k, v in entry.items() if k in _artifact_keys()}) for entry in entries]

    def write(self, *, complete: bool) -> dict[str, Any]:
        """Write the file and return its content."""
        content = self._content(complete)
        self._destination.write(REPORT, json.dumps(content, indent=2, ensure_ascii=False).encode())
        return content

    def _whole(self, entry: dict[str, Any]) -> bool:
        files = self._destination.files(entry["name"])
        return bool(files) and digest(files) == entry["digest"]

    def _content(self, complete: bool) -> dict[str, Any]:
        run, parts = self._run, adapter_runs(self._run)
        return {
            "schemaVersion": 1,
            "job": run.request.job.to_json(),
            "complete": complete,
            "spec": run.spec.to_json(),
            "plan": run.plan.to_json(),
            **_told(run),
            **({"adapters": {part.workspace.adapter: _told(part) for part in parts}} if parts else {}),
            "artifacts": [self._entries[e.name] for e in run.plan.exports if e.name in self._entries],
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Python and the libraries that made the artefacts."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def _told(run: Run) -> dict[str, Any]:
    """What the earlier stages stored in the workspace, of the whole job or of one adapter."""
    stored = {stage: run.stored_result(stage) for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE)}
    results = {stage: result.to_json() for stage, result in stored.items() if result is not None}
    comparison = comparison_path(run.workspace)
    return {
        "dataset": results.get(Stage.PREPARE, {}).get("dataset"),
        "training": {key: results.get(Stage.TRAIN, {}).get(key) for key in ("metrics", "history", "message")},
        "evaluation": results.get(Stage.EVALUATE, {}).get("evaluation"),
        "comparison": json.loads(comparison.read_bytes()) if comparison.exists() else None,
    }


def _asked(export: Export) -> dict[str, Any]:
    return export.to_json()


def _artifact_keys() -> set[str]:
    return {field.alias or name for name, field in Artifact.model_fields.items()}
