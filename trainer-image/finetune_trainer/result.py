"""How a stage's result is kept: whole in the workspace, and shortened in the termination message."""

import os
from pathlib import Path

from finetune_api.contract import StageResult
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
    write_atomically(
        run.workspace.result(result.stage), result.model_dump_json(by_alias=True, exclude_none=True).encode()
    )


def announce(run: Run, result: StageResult) -> None:
    """Hand the result to the kubelet as the termination message."""
    if run.termination_log is not None:
        run.termination_log.write_text(result.termination_message())
