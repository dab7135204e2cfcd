"""How a stage's result is kept: whole in the workspace, and shortened in the termination message."""

import hashlib
import json
import os
from pathlib import Path

from finetune_api.contract import StageRequest, StageResult
from finetune_api.status import Stage
from finetune_trainer.run import Run


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, also after a crash, finds the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def store(run: Run, result: StageResult) -> None:
    """Keep the result of a stage that ended well, so that a repeated call returns it at once."""
    write_atomically(_spec_mark(run, result.stage), json.dumps(_identity(run)).encode())
    write_atomically(
        run.workspace.result(result.stage), result.model_dump_json(by_alias=True, exclude_none=True).encode()
    )


def finished_before(run: Run) -> StageResult | None:
    """The stored result of this stage, when it succeeded for this very job and spec."""
    stage = run.request.stage
    try:
        mark = json.loads(_spec_mark(run, stage).read_bytes())
        result = run.stored_result(stage)
    except (FileNotFoundError, ValueError):
        return None
    same = mark == _identity(run) and result is not None and result.outcome == "Succeeded"
    return result if same else None


def spec_digest(request: StageRequest) -> str:
    """sha256 of the spec without `policy`, the only part that may change in the life of a job."""
    document = request.spec.to_json()
    document.pop("policy", None)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _spec_mark(run: Run, stage: Stage) -> Path:
    return run.workspace.result(stage).with_suffix(".for.json")


def _identity(run: Run) -> dict[str, str]:
    return {"jobUid": run.request.job.uid, "specDigest": spec_digest(run.request)}


def announce(run: Run, result: StageResult) -> None:
    """Hand the result to the kubelet as the termination message."""
    if run.termination_log is not None:
        run.termination_log.write_text(result.termination_message())
