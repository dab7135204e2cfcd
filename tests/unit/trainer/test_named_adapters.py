"""Several adapters as one job: whose files, whose steps, and what they are together. Pure."""

from pathlib import Path
from typing import Any

import pytest

from builders import make_plan
from finetune_api.contract import StageResult
from finetune_api.status import (
    Checkpoint,
    DatasetReport,
    Evaluation,
    GateResult,
    HistoryPoint,
    LongRow,
    MemoryPlan,
    Metrics,
    Plan,
    PlannedAdapter,
    Stage,
)
from finetune_trainer.data.preparation import PreparedData
from finetune_trainer.errors import GateUnmetError, InvalidDataError, StageError
from finetune_trainer.named_adapters.prepared import whole_dataset, whole_plan
from finetune_trainer.named_adapters.results import unmet_bars, whole_evaluation, whole_training
from finetune_trainer.named_adapters.runs import AdapterProgress, adapter_runs, named
from finetune_trainer.run import Run, Workspace
from trainer_requests import make_run, make_spec
from training_job import RecordedProgress

NAMES = ("billing", "returns")


def run_of_two(root: Path, **parts: Any) -> Run:
    adapters = [{"name": name, "dataset": {"source": f"pvc://data/{name}.jsonl"}} for name in NAMES]
    return make_run(root, dataset={}, method={"adapters": adapters}, **parts)


def test_each_adapter_has_files_of_its_own_and_shares_the_base(tmp_path: Path) -> None:
    run = run_of_two(tmp_path)
    billing, returns = (part.workspace for part in adapter_runs(run))
    assert (billing.root, billing.model) == (run.workspace.root, run.workspace.model)
    for place in ("plan", "train_rows", "eval_rows", "checkpoints", "start_values", "tuned", "results"):
        own, other, whole = (getattr(workspace, place) for workspace in (billing, returns, run.workspace))
        assert own == run.workspace.root / "adapters" / "billing" / whole.relative_to(run.workspace.root)
        assert own != other
    assert billing.tensorboard == run.workspace.tensorboard / "billing"


def test_a_job_of_one_adapter_has_no_parts_and_its_files_at_the_root(tmp_path: Path) -> None:
    assert adapter_runs(make_run(tmp_path)) == []
    assert Workspace(tmp_path).tuned == tmp_path / "tuned"
    assert Workspace(tmp_path).tensorboard == tmp_path / "tensorboard"


@pytest.mark.parametrize("error", [InvalidDataError("no row is left"), GateUnmetError("no row is left")])
def test_a_finding_names_its_adapter(tmp_path: Path, error: StageError) -> None:
    part = adapter_runs(run_of_two(tmp_path))[1]
    with pytest.raises(type(error), match=r"^adapter returns: no row is left$"), named(part):
        raise error


def test_a_finding_of_an_ordinary_job_names_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"^no row is left$"), named(make_run(tmp_path)):
        raise InvalidDataError("no row is left")


def told(place: int, step: int, **values: Any) -> dict[str, Any]:
    """What the job's progress hears of step `step` of adapter `place`, of three with 10, 20 and 30 steps."""
    sink = RecordedProgress()
    AdapterProgress(sink, "billing", [10, 20, 30], place).update(step, [10, 20, 30][place], **values)
    return sink.updates[0]


@pytest.mark.parametrize(("place", "step", "want"), [(0, 0, 0), (0, 10, 10), (1, 0, 10), (1, 5, 15), (2, 30, 60)])
def test_progress_is_over_the_steps_of_all(place: int, step: int, want: int) -> None:
    assert told(place, step) == {"step": want, "total_steps": 60, "adapter": "billing"}


@pytest.mark.parametrize(
    ("place", "step", "left", "want"),
    [(0, 5, 5, 5 + 50), (1, 10, 20, 20 + 60), (2, 10, 20, 20), (1, 20, 0, 0)],
)
def test_time_left_counts_the_adapters_that_come_later(place: int, step: int, left: int, want: int) -> None:
    assert told(place, step, seconds_left=left)["seconds_left"] == want


def test_at_its_last_step_the_pace_of_the_one_before_tells_the_rest() -> None:
    sink = RecordedProgress()
    progress = AdapterProgress(sink, "billing", [10, 20], 0)
    progress.update(8, 10, seconds_left=6)
    progress.update(10, 10, seconds_left=0)
    assert sink.of("seconds_left") == [6 + 60, 60]


def test_what_is_measured_says_of_which_adapter() -> None:
    point, checkpoint = HistoryPoint(step=4, loss=1), Checkpoint(step=4, saved_at="2026-11-22T00:00:00Z", verified=True)
    update = told(1, 4, point=point, metrics=Metrics(loss=1), checkpoint=checkpoint)
    assert update["point"] == HistoryPoint(step=14, loss=1, adapter="billing")
    assert update["metrics"] == Metrics(loss=1, adapter="billing")
    assert update["checkpoint"].step == 14


def part_of_plan(steps: int, estimated: int) -> Plan:
    plan = make_plan()
    memory = MemoryPlan(**{**plan.memory.model_dump(), "estimated_bytes": estimated})
    training = plan.training.model_copy(update={"total_steps": steps, "batch_size": steps})
    return plan.model_copy(update={"memory": memory, "training": training})


def prepared(rows: int, **report: Any) -> PreparedData:
    found = DatasetReport(format="messages", train_rows=rows, eval_rows=rows // 10, digest=f"sha256:{rows}", **report)
    return PreparedData(found, "assistant", [*range(1, rows + 1)], 3, 0.5)


def test_the_plan_of_the_job_has_sums_and_the_largest_memory() -> None:
    plans = {"billing": part_of_plan(30, 9), "returns": part_of_plan(12, 7)}
    plan = whole_plan(make_spec(), plans, {"billing": prepared(100), "returns": prepared(40)})
    assert plan.training.total_steps == 42
    assert plan.model.trainable_parameters == 2 * make_plan().model.trainable_parameters
    assert (plan.memory.estimated_bytes, plan.training.batch_size) == (9, 30)
    assert [(a.name, a.train_rows, a.eval_rows, a.total_steps, a.estimated_bytes) for a in plan.adapters] == [
        ("billing", 100, 10, 30, 9),
        ("returns", 40, 4, 12, 7),
    ]
    assert [(adapter.rank, adapter.batch_size) for adapter in plan.adapters] == [(16, 30), (16, 12)]


def test_the_time_and_the_cost_of_the_job_are_those_of_all_adapters() -> None:
    spec = make_spec(policy={"cost": {"perHour": "36"}})
    data = {"billing": prepared(100), "returns": prepared(40)}
    timed = {name: part_of_plan(1, 1).model_copy(update={"estimated_seconds": 50}) for name in data}
    plan = whole_plan(spec, timed, data)
    assert (plan.estimated_seconds, plan.estimated_cost) == (100, "1.00 USD")
    unknown = whole_plan(spec, {**timed, "returns": part_of_plan(1, 1)}, data)
    assert unknown.estimated_cost == ""


def test_the_report_on_data_counts_all_rows_and_names_the_adapter_of_what_it_found() -> None:
    first = prepared(100, warnings=["odd"], longest_row=90, longest_rows=[LongRow(row="line 3", tokens=90)], bad_rows=1)
    second = prepared(40, warnings=["odder"], longest_row=99, longest_rows=[LongRow(row="line 7", tokens=99)])
    report = whole_dataset({"billing": first, "returns": second})
    assert (report.train_rows, report.eval_rows, report.bad_rows, report.longest_row) == (140, 14, 1, 99)
    assert report.warnings == ["adapter billing: odd", "adapter returns: odder"]
    assert [row.row for row in report.longest_rows] == ["adapter returns: line 7", "adapter billing: line 3"]
    assert report.row_tokens is not None
    assert (report.row_tokens.min, report.row_tokens.max) == (1, 100)
    other = whole_dataset({"billing": second, "returns": first})
    assert report.digest.startswith("sha256:")
    assert report.digest != other.digest


def trained(step: int, peak: int) -> StageResult:
    return StageResult(
        stage=Stage.TRAIN,
        outcome="Succeeded",
        message=f"trained {step} of 10 steps",
        metrics=Metrics(loss=1 / step, peak_memory_bytes=peak),
        history=[HistoryPoint(step=i, loss=i) for i in range(1, step + 1)],
        checkpoint=Checkpoint(step=step, saved_at="2026-11-22T00:00:00Z", verified=True),
    )


def test_the_result_of_training_puts_one_curve_after_the_other() -> None:
    adapters = [
        PlannedAdapter(
            name=name, train_rows=9, eval_rows=1, total_steps=10, batch_size=2, max_length=8, estimated_bytes=1
        )
        for name in NAMES
    ]
    plan = make_plan().model_copy(update={"adapters": adapters})
    result = whole_training(plan, {"billing": trained(3, 70), "returns": trained(2, 60)})
    assert result.message == "billing: trained 3 of 10 steps; returns: trained 2 of 10 steps"
    assert [(p.step, p.adapter) for p in result.history] == [
        (1, "billing"),
        (2, "billing"),
        (3, "billing"),
        (11, "returns"),
        (12, "returns"),
    ]
    assert result.metrics == Metrics(loss=0.5, adapter="returns", peak_memory_bytes=70)
    assert result.plan is not None
    assert result.plan.memory.measured_peak_bytes == 70
    assert result.checkpoint is not None
    assert result.checkpoint.step == 12


def measured(got: float) -> Evaluation:
    gate = GateResult(metric="eval_loss", required="at most 1", got=got, passed=got <= 1)
    return Evaluation(rows=8, baseline={"eval_loss": 3}, tuned={"eval_loss": got}, gates=[gate])


@pytest.mark.parametrize(
    ("losses", "want"),
    [
        ((0.5, 0.75), ""),
        ((0.5, 2.0), "of adapter returns on 8 held-out rows: eval_loss must be at most 1, got 2"),
        (
            (3.0, 2.0),
            (
                "of adapter billing on 8 held-out rows: eval_loss must be at most 1, got 3; "
                "of adapter returns on 8 held-out rows: eval_loss must be at most 1, got 2"
            ),
        ),
    ],
)
def test_gates_hold_for_each_adapter(losses: tuple[float, float], want: str) -> None:
    evaluation = whole_evaluation({name: measured(loss) for name, loss in zip(NAMES, losses, strict=True)})
    assert (evaluation.rows, evaluation.tuned, evaluation.gates) == (16, {}, [])
    assert [(a.name, a.tuned["eval_loss"]) for a in evaluation.adapters] == [*zip(NAMES, losses, strict=True)]
    assert unmet_bars(evaluation) == want


def test_a_gate_of_an_ordinary_job_names_no_adapter() -> None:
    assert unmet_bars(measured(2)) == "on 8 held-out rows: eval_loss must be at most 1, got 2"
