"""Runs stage export in a process of its own and ends it, as SIGKILL would, at a chosen point.

The processes come from a fork server that has imported the libraries and never computed: forking the test process
itself would copy the locks of its thread pools.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

from finetune_trainer.run import Run

KILLED = 137
KILL_POINTS = {
    "while the yardstick is made": ("stages.export", "compute", 1),
    "after the first artefact was written": ("stages.export", "list_files", 1),
    "between proving it and making it durable": ("exporting.publishing", "_sync_tree", 1),
    "after the rename and before the report": ("exporting.report:Report", "add", 1),
    "in the second artefact": ("stages.export", "prove_logits", 2),
    "before the card": ("stages.export", "model_card", 1),
}
"""Where: a module of finetune_trainer, or a class in it, a function there, and the call at which the process ends."""
UPLOAD_KILL_POINTS = {
    "between two objects": ("exporting.buckets:BucketDestination", "_send", 4),
    "before the artefact is in the report": ("exporting.report:Report", "add", 1),
    "before the card": ("stages.export", "model_card", 1),
}
"""The same for a bucket."""


def export_until(point: str, root: Path) -> int | None:
    """Export the run in `root` until `point`; returns the exit code of the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finetune_trainer.stages.export", "tuned_runs"])
    process = context.Process(target=_export, args=(point, root, dict(os.environ)))
    process.start()
    process.join()
    return process.exitcode


def reopened(root: Path) -> Run:
    """The run in `root`, as a new process sees it."""
    from finetune_api.contract import StageRequest
    from finetune_trainer.run import Workspace
    from tuned_runs import RecordedProgress

    request = StageRequest.model_validate_json((root / "request.json").read_bytes())
    return Run(request, Workspace(root / "workspace"), lambda claim: root / "claims" / claim, RecordedProgress())


def _export(point: str, root: Path, environment: dict[str, str]) -> None:
    from finetune_trainer.stages import export

    os.environ.update(environment)  # that of the fork server is of the day it was started
    _die_at(*(KILL_POINTS | UPLOAD_KILL_POINTS)[point])
    export.execute(reopened(root))


def _die_at(place: str, name: str, call: int) -> None:
    import importlib

    module, _, class_name = place.partition(":")
    target: Any = importlib.import_module(f"finetune_trainer.{module}")
    target = getattr(target, class_name) if class_name else target
    right, calls = getattr(target, name), []

    def dying(*arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            os._exit(KILLED)
        return right(*arguments, **keywords)

    setattr(target, name, dying)
