"""Stage evaluate: tuned against untouched model on the same held-out rows, and the gates.

Reads the plan, the models and the held-out rows; writes results/comparison.json and results/samples.jsonl. Publishes
nothing: whether the job goes on to export is decided by the gates here.
"""

import gc
from collections.abc import Callable

from finetune_api.contract import StageResult
from finetune_api.heads import HEAD_FORMATS
from finetune_api.status import Evaluation, Stage
from finetune_trainer.errors import GateUnmetError
from finetune_trainer.evaluating import answer_contest, head_contest, preference_contest
from finetune_trainer.evaluating.comparing import Difference, difference
from finetune_trainer.evaluating.gates import judge
from finetune_trainer.evaluating.measuring import Measurement
from finetune_trainer.evaluating.records import keep_comparison
from finetune_trainer.evaluating.rows import EvalRow, load_rows
from finetune_trainer.failures import shortened
from finetune_trainer.named_adapters.results import unmet_bars, whole_evaluation
from finetune_trainer.named_adapters.runs import adapter_runs, named
from finetune_trainer.ownership import confirm_attempt
from finetune_trainer.planning.objectives import prefers
from finetune_trainer.result import finished_before, store
from finetune_trainer.run import Run

Contest = Callable[[Run, list[EvalRow], list[str]], tuple[Measurement, Measurement | None]]
"""Run, held-out rows, metrics -> measurements of the tuned model and of the baseline, which may not be wanted."""


def execute(run: Run) -> StageResult:
    """Evaluate, keep the records, judge the gates; of several adapters each on its own rows.

    Raises GateUnmetError, which carries the evaluation, when a bar is not cleared, and InvalidDataError without rows.
    """
    sizes = [min(adapter.eval_rows, run.spec.evaluation.max_rows) for adapter in run.plan.adapters]
    parts = adapter_runs(run, sizes)
    result = _adapters_evaluated(run, parts) if parts else _evaluated(run)
    if result.evaluation is not None and (bars := unmet_bars(result.evaluation)):
        raise GateUnmetError(f"evaluation.gates {bars}; nothing is published", result.evaluation)
    return result


def _evaluated(run: Run) -> StageResult:
    """Figures and verdicts, whatever they are."""
    rows = load_rows(run.workspace.eval_rows, run.spec.evaluation.max_rows, run.spec.dataset.shuffle_seed)
    tuned, baseline = _contest(run)(run, rows, _metrics(run))
    differences = _differences(tuned, baseline, run.spec.training.seed)
    keep_comparison(run.workspace, differences)
    return StageResult(
        stage=Stage.EVALUATE,
        outcome="Succeeded",
        message=_message(run.plan.method.start, len(rows), tuned, differences),
        evaluation=_evaluation(run, len(rows), tuned, baseline),
    )


def _adapters_evaluated(run: Run, parts: list[Run]) -> StageResult:
    """One adapter after the other; those that an earlier attempt has measured are not measured again."""
    results: dict[str, StageResult] = {}
    # Of very few rows none can be held out; prepare has said so.
    for part in [part for part in parts if part.workspace.eval_rows.is_dir()] or parts:
        found = finished_before(part)
        if found is None:
            with named(part):
                found = _evaluated(part)
            confirm_attempt(run.workspace.root, run.request)
            store(part, found)
            gc.collect()  # the next adapter's model needs the room
        results[part.workspace.adapter] = found
    evaluations = {name: found.evaluation for name, found in results.items() if found.evaluation}
    return StageResult(
        stage=Stage.EVALUATE,
        outcome="Succeeded",
        message=shortened("; ".join(f"{name}: {found.message}" for name, found in results.items())),
        evaluation=whole_evaluation(evaluations),
    )


def _contest(run: Run) -> Contest:
    """How tuned and untouched model are compared in this task."""
    if run.spec.task in HEAD_FORMATS:
        return head_contest.contest
    return preference_contest.contest if prefers(run.spec) else answer_contest.contest


def _metrics(run: Run) -> list[str]:
    """Metrics of the plan, and those that gates name."""
    return list(dict.fromkeys([*run.plan.metrics, *(gate.metric for gate in run.spec.evaluation.gates)]))


def _differences(tuned: Measurement, baseline: Measurement | None, seed: int) -> list[Difference]:
    if baseline is None:
        return []
    return [
        difference(name, baseline.tables[name], table, value, higher_is_better=higher_is_better, seed=seed)
        for name, table in tuned.tables.items()
        for value, higher_is_better in [tuned.judged[name]]
    ]


def _evaluation(run: Run, rows: int, tuned: Measurement, baseline: Measurement | None) -> Evaluation:
    before = baseline.values if baseline else {}
    gates = judge(run.spec.evaluation.gates, tuned.values, before)
    return Evaluation(rows=rows, baseline=before, tuned=tuned.values, gates=gates)


def _message(start: str, rows: int, tuned: Measurement, differences: list[Difference]) -> str:
    if not differences:
        return f"{rows} held-out rows: " + ", ".join(f"{name} {value:.4g}" for name, value in tuned.values.items())
    told = ("eval_loss", "accuracy", "json-valid", "f1", "seqeval", "exact-match", "rougeL")
    shown = [d for d in differences if d.metric in told]
    return f"{rows} held-out rows, tuned against {start}: " + "; ".join(map(_sentence, shown))


def _sentence(found: Difference) -> str:
    text = f"{found.metric} {found.baseline:.4g} -> {found.tuned:.4g}"
    if found.low is None:
        return f"{text} (too few rows for a confidence interval)"
    return f"{text} ({found.difference:+.3g}, 95% interval {found.low:+.3g} to {found.high:+.3g}: {found.verdict})"
