"""A whole job on this machine, without Kubernetes: how a person tries or debugs a job.

Each stage runs in a process of its own through the same entry point as in a pod, so memory and exit codes are the same.
Must not do anything that a pod does not do.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from finetune_api.contract import JobRef, StageRequest, StageResult, parse_result
from finetune_api.exit_codes import REASON_OF, ExitCode
from finetune_api.names import OUTPUT_ENV_PREFIX
from finetune_api.sources import sources
from finetune_api.status import Stage
from finetune_api.v1alpha1 import FineTuneJob
from finetune_trainer.errors import InvalidSpecError, SourceNotFoundError, StageError
from finetune_trainer.object_clients import STORE_VARIABLES
from finetune_trainer.result import spec_digest
from finetune_trainer.stage_runner import summarized


def run_job(job_file: Path, output: Path, claims: dict[str, Path], stages: list[Stage]) -> int:
    """Run `stages` of the job in `job_file` one after the other; `output` is their workspace.

    `claims` gives the folder of each pvc:// claim. Returns the exit code of the first stage that fails, or 0.
    """
    try:
        job = read_job(job_file)
        _require_claims(job, claims)
    except StageError as error:
        _say(f"finetune-trainer: {error}")
        return error.exit_code
    output.mkdir(parents=True, exist_ok=True)
    for stage in _needed(job, stages):
        code, result = _run_stage(_request(job, stage), output, claims)
        _summarize(stage, code, result)
        if code != ExitCode.DONE:
            return code
    return ExitCode.DONE


def read_job(path: Path) -> FineTuneJob:
    """The manifest in `path`. Raises SourceNotFoundError or InvalidSpecError, naming the field."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
        return FineTuneJob.model_validate(document)
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        raise InvalidSpecError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise InvalidSpecError(f"{path} is not a FineTuneJob: {summarized(error)}") from error


def _require_claims(job: FineTuneJob, claims: dict[str, Path]) -> None:
    for uri in _uris(job):
        if uri.startswith("job://"):
            raise InvalidSpecError(f"{uri} names a job of a cluster, and here is none: name what it has published")
        claim = uri.removeprefix("pvc://").partition("/")[0]
        if uri.startswith("pvc://") and claim not in claims:
            raise InvalidSpecError(f"{uri} names the claim {claim!r}: give its folder with --claim {claim}=PATH")
    for claim, path in claims.items():
        if not path.is_dir():
            raise SourceNotFoundError(f"--claim {claim}={path}: there is no such folder")


def _uris(job: FineTuneJob) -> list[str]:
    found = [*(source.source for source in sources(job.spec).values()), job.spec.output.destination]
    return [uri for uri in found if uri]


def _needed(job: FineTuneJob, stages: list[Stage]) -> list[Stage]:
    return [stage for stage in stages if stage is Stage.PREPARE or not job.spec.dry_run]


def _request(job: FineTuneJob, stage: Stage) -> StageRequest:
    metadata = job.metadata
    name = str(metadata.get("name", "job"))
    draft = StageRequest(
        job=JobRef(namespace=str(metadata.get("namespace", "local")), name=name, uid="local"),
        stage=stage,
        attempt=1,
        spec=job.spec,
        memory_limit_bytes=_memory(),
    )
    uid = f"local-{hashlib.sha256(f'{name} {spec_digest(draft)}'.encode()).hexdigest()[:16]}"
    return draft.model_copy(update={"job": draft.job.model_copy(update={"uid": uid})})


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _run_stage(request: StageRequest, output: Path, claims: dict[str, Path]) -> tuple[int, StageResult | None]:
    folder = output / ".requests"
    folder.mkdir(exist_ok=True)
    request_file, message = folder / f"{request.stage}.json", folder / f"{request.stage}.message"
    request_file.write_text(json.dumps(request.model_dump(mode="json", by_alias=True, exclude_none=True)))
    message.write_text("")
    _say(f"== {request.stage}")
    started = time.monotonic()
    command = _command(request, request_file, message, output, claims)
    code = subprocess.run(command, check=False, env=_environment(os.environ)).returncode
    _say(f"== {request.stage} took {time.monotonic() - started:.0f} s")
    return _as_exit_code(code), parse_result(message.read_text())


def _command(request: StageRequest, file: Path, message: Path, output: Path, claims: dict[str, Path]) -> list[str]:
    named = [part for claim, path in claims.items() for part in ("--claim", f"{claim}={path}")]
    places = ["--request", str(file), "--workspace", str(output / "workspace"), "--termination-log", str(message)]
    return [
        sys.executable,
        "-m",
        "finetune_trainer.cli",
        request.stage,
        *places,
        "--port",
        "0",
        "--log",
        "text",
        *named,
    ]


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """This machine's variables; keys of stores are also those of output.destination, unless it has keys of its own."""
    of_stores = {name: value for name, value in own.items() if name.startswith(STORE_VARIABLES)}
    for_output = {f"{OUTPUT_ENV_PREFIX}{name}": value for name, value in of_stores.items()}
    given = any(name.startswith(tuple(OUTPUT_ENV_PREFIX + start for start in STORE_VARIABLES)) for name in own)
    return {**own} if given else {**own, **for_output}


def _as_exit_code(code: int) -> int:
    """128+n for a process that signal n ended, as a container reports it."""
    return 128 - code if code < 0 else code


def _summarize(stage: Stage, code: int, result: StageResult | None) -> None:
    if result is None:
        reason = REASON_OF.get(code)
        _say(f"{stage} failed with exit code {code}{f' ({reason})' if reason else ''} and left no result")
        return
    _say(f"{stage}: {result.outcome}{'' if result.outcome == 'Succeeded' else f' ({result.reason})'} {result.message}")
    for line in _details(result):
        _say(f"  {line}")


def _details(result: StageResult) -> list[str]:
    lines = []
    if result.dataset:
        lines.append(f"rows: {result.dataset.train_rows} to train on, {result.dataset.eval_rows} held out")
        lines += [f"warning: {warning}" for warning in result.dataset.warnings]
    if result.plan and result.stage is Stage.PREPARE:
        lines += _plan_lines(result)
    if result.evaluation:
        measured = result.evaluation.model_dump(mode="json")
        for part in measured["adapters"] or [measured]:
            named = f"{part['name']}: " if "name" in part else ""
            lines += [f"{named}before: {part['baseline']}", f"{named}tuned model: {part['tuned']}"]
    lines += [f"{artifact.name} ({artifact.format}): {artifact.uri}" for artifact in result.artifacts]
    return lines


def _plan_lines(result: StageResult) -> list[str]:
    if result.plan is None:
        return []
    training = result.plan.training
    steps = f"{training.total_steps} steps of {training.batch_size} rows of at most {training.max_length} tokens"
    memory = f"memory: about {result.plan.memory.estimated_bytes / 2**30:.1f} GiB"
    return [f"plan: {steps}, {training.precision}, learning rate {training.learning_rate:g}", memory]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
