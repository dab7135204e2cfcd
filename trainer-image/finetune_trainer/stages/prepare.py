"""Stage prepare: model and data are found, checked and tokenised, and every `auto` resolved, before a GPU is asked for.

plan.json is written last, so a plan is there only when everything that it speaks of is. Every step can be repeated
after a kill at any point and gives the same result. Must not load weights, except to convert a GGUF file once.
"""

import shutil
from datetime import timedelta
from pathlib import Path

import structlog

from finetune_api.adapters import name_conflict
from finetune_api.contract import StageResult
from finetune_api.status import DatasetReport, Plan, Stage
from finetune_trainer.data.intake import COPIES
from finetune_trainer.data.json_answers import AnswerCheck
from finetune_trainer.data.preparation import PreparedData, prepare_data
from finetune_trainer.errors import InvalidModelError, InvalidSpecError
from finetune_trainer.exporting.destinations import check_destination
from finetune_trainer.models.continued_adapter import bring_adapter
from finetune_trainer.models.continued_check import check_continued
from finetune_trainer.models.heads import inspect_source, kept_head, with_head
from finetune_trainer.models.inspection import ModelFacts
from finetune_trainer.models.load import load_tokenizer
from finetune_trainer.models.sources import SourcedModel, bring_model
from finetune_trainer.named_adapters.prepared import whole_dataset, whole_plan
from finetune_trainer.named_adapters.runs import adapter_runs, named
from finetune_trainer.ownership import confirm_attempt
from finetune_trainer.planning.allocator import leaves_holes
from finetune_trainer.planning.cpu_features import multiplies_bf16
from finetune_trainer.planning.facts import DataFacts, Machine, ModelOrigin
from finetune_trainer.planning.head_checks import check_head
from finetune_trainer.planning.memory import Precision, human
from finetune_trainer.planning.objectives import check_objective
from finetune_trainer.planning.processor_speed import operations_per_second
from finetune_trainer.planning.resolve import adapter_of, resolve
from finetune_trainer.result import store, write_atomically
from finetune_trainer.run import Run

_log = structlog.get_logger(__name__)


def execute(run: Run) -> StageResult:
    """Prepare the job: model, rows and plan in the workspace. Raises a StageError that says what to change."""
    _check_spec(run)
    parts = adapter_runs(run)
    steps = 3 + max(1, len(parts))
    model = bring_model(run)
    run.progress.update(1, steps)
    facts = inspect_source(run.workspace.model, model.tensors, run.spec.task, run.spec.model.source)
    _log.info("model", architecture=facts.architecture, parameters=facts.parameters, digest=model.digest)
    _clear(run.workspace.plan)
    if parts:
        result = _adapters_prepared(run, parts, model, facts)
    else:
        plan, data = _prepared(run, model, facts)
        result = _result(plan, data.report, _summary(plan, data.report))
    run.progress.update(steps - 1, steps)
    _write_plan(run, result)
    run.progress.update(steps, steps)
    return result


def _prepared(run: Run, model: SourcedModel, facts: ModelFacts) -> tuple[Plan, PreparedData]:
    data = _prepare_rows(run, facts, model.digest)
    facts = with_head(facts, run.workspace.model, run.spec.task, data.classes, run.spec.model.source)
    return _plan(run, model, facts, data, _continued_digest(run, model, facts)), data


def _continued_digest(run: Run, model: SourcedModel, facts: ModelFacts) -> str:
    """Digest of the adapter that the job continues, which is in the workspace then; empty without one."""
    continued = bring_adapter(run, model.digest)
    planned = adapter_of(run.spec, facts) if continued else None
    if continued is None or planned is None:
        return ""
    check_continued(continued, run.spec.method, planned)
    return continued.digest


def _adapters_prepared(run: Run, parts: list[Run], model: SourcedModel, facts: ModelFacts) -> StageResult:
    """Rows and plan of each adapter in its folder, and what they are together."""
    plans: dict[str, Plan] = {}
    data: dict[str, PreparedData] = {}
    for done, part in enumerate(parts, 2):
        name = part.workspace.adapter
        with named(part):
            plans[name], data[name] = _prepared(part, model, facts)
        report = data[name].report
        result = _result(plans[name], report, _summary(plans[name], report))
        _write_plan(part, result)
        store(part, result)
        run.progress.update(done, 3 + len(parts))
    plan, whole = whole_plan(run.spec, plans, data), whole_dataset(data)
    return _result(plan, whole, f"{len(parts)} adapters: {_summary(plan, whole)}")


def _result(plan: Plan, report: DatasetReport, message: str) -> StageResult:
    return StageResult(stage=Stage.PREPARE, outcome="Succeeded", message=message, dataset=report, plan=plan)


def _write_plan(run: Run, result: StageResult) -> None:
    assert result.plan is not None  # noqa: S101 - prepare always plans
    confirm_attempt(run.workspace.root, run.request)
    content = result.plan.model_dump_json(by_alias=True, exclude_none=True, indent=1)
    write_atomically(run.workspace.plan, content.encode())


def _check_spec(run: Run) -> None:
    """What can be refused before anything is read."""
    from finetune_trainer.training.arguments import check_extra
    from finetune_trainer.training.token_losses import check_loss

    check_objective(run.spec)
    check_extra(run.spec.training.extra)
    check_loss(run.spec.training.loss)
    check_head(run.spec)
    AnswerCheck(run.spec.dataset.answer_schema)
    if conflict := name_conflict(run.spec):
        raise InvalidSpecError(conflict)
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
        kept = kept_head(run.workspace.model, run.spec.model.source)
        classes = kept.classes if kept else ()
        prepared = prepare_data(run, tokenizer, facts.context_length, scratch, model_digest, classes)
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


def _plan(run: Run, model: SourcedModel, facts: ModelFacts, data: PreparedData, continued_digest: str) -> Plan:
    return resolve(
        run.spec,
        ModelOrigin(run.spec.model.source, model.revision, model.digest, continued_digest),
        facts,
        DataFacts(
            data.report, data.train_lengths, data.loss_on, data.distinct_answers, data.supervised_share, data.classes
        ),
        _machine(run, facts),
    )


def _machine(run: Run, facts: ModelFacts) -> Machine:
    """Where training will run: a pod of this one's size. Of an accelerator nothing can be measured here."""
    accelerator = run.spec.resources.accelerator is not None
    formats: tuple[Precision, ...] = () if accelerator else ("fp32", "bf16")
    return Machine(
        accelerator=accelerator,
        cpu_bf16=multiplies_bf16(),
        memory_limit=run.request.memory_limit_bytes,
        leaves_holes=leaves_holes(),
        speed={precision: operations_per_second(facts, precision, run.threads) for precision in formats},
    )


def _summary(plan: Plan, report: DatasetReport) -> str:
    return (
        f"{report.train_rows} rows to train on and {report.eval_rows} held out; {plan.training.total_steps} steps, "
        f"about {human(plan.memory.estimated_bytes)} of memory{_time(plan)}"
    )


def _time(plan: Plan) -> str:
    if plan.estimated_seconds is None:
        return ""
    cost = f" ({plan.estimated_cost})" if plan.estimated_cost else ""
    return f" and {timedelta(seconds=plan.estimated_seconds)} of training{cost}"
