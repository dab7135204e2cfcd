"""Runs one stage as one process: request in, result and exit code out.

Decides what happens around a stage (is the request understood, was it done before, is this attempt a leftover, what
does an exception mean). Must not know anything about models or data; heavy libraries are imported by the stage alone.
"""

import importlib
import json
import os
import signal
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from pydantic import ValidationError

from finetune_api.contract import CONTRACT_VERSION, StageRequest, StageResult
from finetune_api.exit_codes import REASON_OF, ExitCode
from finetune_api.sources import sources
from finetune_api.status import Stage
from finetune_api.support import unsupported
from finetune_trainer import event_log, ownership
from finetune_trainer.errors import InvalidSpecError, NotSupportedError, SourceNotFoundError, TrainerTooOldError
from finetune_trainer.failures import failure_of
from finetune_trainer.progress import ProgressServer, StageProgress, now
from finetune_trainer.reporting.servers import trackers_of
from finetune_trainer.reporting.tracking import tracked
from finetune_trainer.result import announce, finished_before, store
from finetune_trainer.run import Run, Workspace

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What the process was started with: where things are mounted and where it may listen."""

    workspace: Path
    claim_path: Callable[[str], Path]
    termination_log: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104 - the operator and Prometheus reach the pod here; a NetworkPolicy bounds who may
    port: int | None = None
    """Port of the progress server; 0 takes a free one, None serves nothing."""


def run_stage(stage: Stage, request_file: Path, surroundings: Surroundings) -> int:
    """Run `stage` and return the exit code of its process. Never raises: every cause becomes a result."""
    try:
        request = read_request(request_file, stage)
        _bind_log(request)
        return _run(request, surroundings)
    except Exception as error:
        return _fail(stage, error, surroundings)


def read_request(path: Path, stage: Stage) -> StageRequest:
    """The request in `path`. Raises TrainerTooOldError, NotSupportedError, InvalidSpecError or SourceNotFoundError."""
    document = _json_object(path)
    version = document.get("contractVersion", 1)
    if not isinstance(version, int) or version > CONTRACT_VERSION:
        raise TrainerTooOldError(
            f"the request speaks contract version {version}, this trainer up to {CONTRACT_VERSION}: "
            "upgrade the trainer image to the operator's version"
        )
    try:
        request = StageRequest.model_validate(document)
    except ValidationError as error:
        raise InvalidSpecError(f"the request is not valid: {summarized(error)}") from error
    if request.stage is not stage:
        raise InvalidSpecError(f"the request is for stage {request.stage}, this process runs {stage}")
    if fields := unsupported(request.spec):
        raise NotSupportedError(f"not supported yet: {', '.join(fields)}")
    return request


def summarized(error: ValidationError) -> str:
    """The first five complaints of pydantic, each as `field: what is wrong`."""
    problems = error.errors(include_url=False, include_input=False)
    named = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5]]
    return "; ".join([*named, *([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])])


def _json_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path} is missing: it must hold the StageRequest as JSON") from None
    except ValueError as error:
        raise InvalidSpecError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpecError(f"{path} must hold a JSON object, not a {type(document).__name__}")
    return document


def _run(request: StageRequest, surroundings: Surroundings) -> int:
    folder = ownership.job_folder(surroundings.workspace, request.job.uid)
    ownership.enter_attempt(folder, request)
    progress = StageProgress(request)
    run = Run(request, Workspace(folder), surroundings.claim_path, progress, surroundings.termination_log)
    done = finished_before(run)
    if done is not None:
        _log.info("this stage ended well before; its result is announced again")
        announce(run, done)
        return ExitCode.DONE
    prepare_process(run)
    server = ProgressServer(progress, surroundings.host, surroundings.port) if surroundings.port is not None else None
    with closing(server) if server else nullcontext():
        return _finish(run, _execute(run))


def _execute(run: Run) -> StageResult:
    _log.info("stage started", threads=run.threads, workspace=str(run.workspace.root))
    _exit_on_sigterm(run)
    module = importlib.import_module(f"finetune_trainer.stages.{run.request.stage}")
    with tracked(run, trackers_of) as (tracked_run, tell):
        result: StageResult = module.execute(tracked_run)
        tell(result)
    return result.model_copy(update={"finished_at": result.finished_at or now()})


def _finish(run: Run, result: StageResult) -> int:
    ownership.confirm_attempt(run.workspace.root, run.request)
    if result.outcome == "Succeeded":
        store(run, result)
    announce(run, result)
    _log.info("stage ended", outcome=result.outcome, message=result.message)
    return _exit_code_of(result)


def _exit_code_of(result: StageResult) -> int:
    if result.outcome == "Succeeded":
        return ExitCode.DONE
    if result.outcome == "Preempted":
        return ExitCode.PREEMPTED
    return next((code for code, reason in REASON_OF.items() if reason == result.reason), ExitCode.CRASHED)


def _fail(stage: Stage, error: BaseException, surroundings: Surroundings) -> int:
    failure = failure_of(error, surroundings.workspace)
    crashed = failure.exit_code == ExitCode.CRASHED
    _log.error("stage failed", reason=str(failure.reason), message=failure.message, exc_info=error if crashed else None)
    _write_termination_log(surroundings.termination_log, failure.result(stage))
    return failure.exit_code


def _write_termination_log(path: Path | None, result: StageResult) -> None:
    if path is None:
        return
    try:
        path.write_text(result.termination_message())
    except OSError as error:
        _log.warning("the termination message cannot be written", path=str(path), error=str(error))


def prepare_process(run: Run) -> None:
    """Set what libraries read at import: threads, offline mode, caches. The root filesystem may be read-only."""
    cache = run.workspace.root / ".cache"
    os.environ.update(
        OMP_NUM_THREADS=str(run.threads),
        MKL_NUM_THREADS=str(run.threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TQDM_DISABLE="1",
        HF_HOME=str(cache / "huggingface"),
        HF_DATASETS_CACHE=str(cache / "datasets"),
        XDG_CACHE_HOME=str(cache),
        TORCHINDUCTOR_CACHE_DIR=str(cache / "inductor"),
        TRITON_CACHE_DIR=str(cache / "triton"),
    )
    if run.request.stage is not Stage.PREPARE or not _reads_hub(run):
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def _reads_hub(run: Run) -> bool:
    return any(source.source.startswith("hf://") for source in sources(run.spec).values())


def _exit_on_sigterm(run: Run) -> None:
    """End at once: nothing here is worth saving. Stage train replaces this handler once it can save a checkpoint."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        message = f"stage {run.request.stage} was asked to stop; it starts again from its beginning"
        result = StageResult(
            stage=run.request.stage,
            outcome="Preempted",
            reason=REASON_OF[ExitCode.TERMINATED],
            message=message,
        )
        _write_termination_log(run.termination_log, result)
        os._exit(ExitCode.TERMINATED)

    signal.signal(signal.SIGTERM, leave)


def _bind_log(request: StageRequest) -> None:
    job = request.job
    event_log.bind(
        namespace=job.namespace, name=job.name, uid=job.uid, stage=str(request.stage), attempt=request.attempt
    )
