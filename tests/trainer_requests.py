"""Requests and runs for trainer tests: one line for the usual case, keywords for what a test is about."""

from pathlib import Path
from typing import Any

from finetune_api.contract import JobRef, StageRequest
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Stage
from finetune_trainer.progress import StageProgress
from finetune_trainer.run import Run, Workspace

UID = "11111111-2222-3333-4444-555555555555"


def make_spec(**parts: Any) -> FineTuneJobSpec:
    """The smallest job, with whole parts of the spec given as keywords (camelCase inside)."""
    smallest = {
        "model": {"source": "pvc://models/tiny"},
        "dataset": {"train": {"source": "pvc://data/train.jsonl"}},
    }
    return FineTuneJobSpec.model_validate({**smallest, **parts})


def make_request(stage: Stage = Stage.PREPARE, *, uid: str = UID, attempt: int = 1, **parts: Any) -> StageRequest:
    """A request for `stage` of that job."""
    limits = {key: parts.pop(key) for key in ("memory_limit_bytes", "cpu_limit") if key in parts}
    job = JobRef(namespace="team", name="bot", uid=uid)
    return StageRequest(job=job, stage=stage, attempt=attempt, spec=make_spec(**parts), **limits)


def make_run(root: Path, stage: Stage = Stage.PREPARE, **parts: Any) -> Run:
    """A run whose workspace is root/workspace and whose claims are the folders of root/claims."""
    request = make_request(stage, **parts)
    workspace = root / "workspace"
    workspace.mkdir(parents=True, exist_ok=True)
    return Run(
        request=request,
        workspace=Workspace(workspace),
        claim_path=lambda claim: root / "claims" / claim,
        progress=StageProgress(request),
        environment={},
    )


def write_request(path: Path, request: StageRequest) -> Path:
    """The request as the operator writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(request.model_dump_json(by_alias=True, exclude_none=True))
    return path
