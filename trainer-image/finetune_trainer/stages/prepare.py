"""Stage prepare: model and data are found, checked and tokenised, and every `auto` resolved, before a GPU is asked for.

plan.json is written last, so a plan is there only when everything that it speaks of is. Every step can be repeated
after a kill at any point and gives the same result. Must not load weights, except to convert a GGUF file once.
"""

import shutil
from pathlib import Path

import structlog

from finetune_api.contract import StageResult
from finetune_api.status import Plan, Stage
from finetune_trainer.data.intake import COPIES
from finetune_trainer.data.json_answers import AnswerCheck
from finetune_trainer.data.preparation import PreparedData, prepare_data
from finetune_trainer.errors import InvalidModelError, NotSupportedError
from finetune_trainer.exporting.destinations import check_destination
from finetune_trainer.models.heads import require_head, with_head
from finetune_trainer.models.inspection import ModelFacts, inspect_model
from finetune_trainer.models.load import load_tokenizer
from finetune_trainer.models.sources import SourcedModel, bring_model
from finetune_trainer.ownership import confirm_attempt
from finetune_trainer.planning.cpu_features import multiplies_bf16
from finetune_trainer.planning.facts import DataFacts, Machine, ModelOrigin
from finetune_trainer.planning.head_checks import check_head
from finetune_trainer.planning.memory import human
from finetune_trainer.planning.objectives import check_objective
from finetune_trainer.planning.resolve import resolve
from finetune_trainer.result import write_atomically
from finetune_trainer.run import Run

_log = structlog.get_logger(__name__)
STEPS = 4


def execute(run: Run) -> StageResult:
    """Prepare the job: model, rows and plan in the workspace. Raises a StageError that says what to change."""
    _check_spec(run)
    model = bring_model(run)
    run.progress.update(1, STEPS)
    facts = inspect_model(run.workspace.model, model.tensors, run.spec.model.source)
    _log.info("model", architecture=facts.architecture, parameters=facts.parameters, digest=model.digest)
    require_head(run.workspace.model, run.spec.task, run.spec.model.source)
    data = _prepare_rows(run, facts, model.digest)
    run.progress.update(3, STEPS)
    facts = with_head(facts, run.workspace.model, run.spec.task, data.classes, run.spec.model.source)
    plan = _plan(run, model, facts, data)
    confirm_attempt(run.workspace.root, run.request)
    write_atomically(run.workspace.plan, plan.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode())
    run.progress.update(STEPS, STEPS)
    return StageResult(
        stage=Stage.PREPARE, outcome="Succeeded", message=_summary(plan, data), dataset=data.report, plan=plan
    )


def _check_spec(run: Run) -> None:
    """What can be refused before anything is read."""
    from finetune_trainer.training.arguments import check_extra
    from finetune_trainer.training.token_losses import check_loss

    if run.spec.model.trust_remote_code:
        raise NotSupportedError(
            "not supported yet: model.trustRemoteCode=True; code that comes with a model is never run"
        )
    check_objective(run.spec)
    check_extra(run.spec.training.extra)
    check_loss(run.spec.training.loss)
    check_head(run.spec)
    AnswerCheck(run.spec.dataset.answer_schema)
    check_destination(run)


def _prepare_rows(run: Run, facts: ModelFacts, model_digest: str) -> PreparedData:
    tokenizer = load_tokenizer(run.workspace.model, run.spec.model.chat_template)
    if len(tokenizer) > facts.vocabulary:
        raise InvalidModelError(
            f"{run.spec.model.source}: its tokenizer has {len(tokenizer)} tokens, its embedding {facts.vocabulary}: "
            "tokenizer and weights do not belong together"
        )
    scratch = run.workspace.root / ".prepare"
    _clear(scratch, run.workspace.train_rows, run.workspace.eval_rows, run.workspace.plan)
    try:
        prepared = prepare_data(run, tokenizer, facts.context_length, scratch, model_digest)
    finally:
        _clear(scratch)
    _clear(run.workspace.root / COPIES)
    return prepared


def _clear(*paths: Path) -> None:
    """Take away what an interrupted call left."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _plan(run: Run, model: SourcedModel, facts: ModelFacts, data: PreparedData) -> Plan:
    return resolve(
        run.spec,
        ModelOrigin(run.spec.model.source, model.revision, model.digest),
        facts,
        DataFacts(
            data.report, data.train_lengths, data.loss_on, data.distinct_answers, data.supervised_share, data.classes
        ),
        Machine(
            accelerator=run.spec.resources.accelerator is not None,
            cpu_bf16=multiplies_bf16(),
            memory_limit=run.request.memory_limit_bytes,
        ),
    )


def _summary(plan: Plan, data: PreparedData) -> str:
    report = data.report
    return (
        f"{report.train_rows} rows to train on and {report.eval_rows} held out; {plan.training.total_steps} steps, "
        f"about {human(plan.memory.estimated_bytes)} of memory"
    )
