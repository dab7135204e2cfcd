"""What tracking servers are told of a stage, and that none of them can hold it up."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from finetune_api.contract import StageResult
from finetune_api.status import AdapterEvaluation, Artifact, Evaluation, HistoryPoint, Metrics, Stage
from finetune_trainer.errors import GateUnmetError
from finetune_trainer.reporting import tracking
from finetune_trainer.reporting.tracking import TrackedProgress, run_outcome, tracked
from finetune_trainer.run import Run
from trainer_requests import make_run
from tuned_runs import RecordedProgress


class Recorder:
    """A tracker that keeps what it is told."""

    name = "recorder"

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def begin(self, settings: dict[str, str]) -> None:
        self.told.append(("begin", settings))

    def log(self, step: int, values: dict[str, float]) -> None:
        self.told.append((f"step {step}", values))

    def describe(self, facts: dict[str, str]) -> None:
        self.told.append(("facts", facts))

    def end(self, outcome: str | None) -> None:
        self.told.append(("end", outcome))


class Refusing(Recorder):
    """A server that answers nothing but errors."""

    def log(self, step: int, values: dict[str, float]) -> None:
        super().log(step, values)
        raise ConnectionError("refused")


def result(stage: Stage = Stage.TRAIN, **parts: Any) -> StageResult:
    return StageResult(stage=stage, **{"outcome": "Succeeded", "message": "", **parts})


def test_a_point_of_the_curves_is_told_once_with_what_was_measured_there() -> None:
    recorder, sink = Recorder(), RecordedProgress()
    progress = TrackedProgress(sink, [recorder])
    metrics = Metrics(loss=2, eval_loss=3, learning_rate=1e-4, tokens_per_second=50)
    progress.update(9, 20, seconds_left=4)
    progress.update(10, 20, point=HistoryPoint(step=10, loss=2))
    progress.update(10, 20, epoch=0.5, metrics=metrics, point=HistoryPoint(step=10, loss=2))
    progress.update(10, 20, metrics=metrics, point=HistoryPoint(step=10, eval_loss=3))
    progress.end(20, result())
    assert recorder.told == [
        ("step 10", {"loss": 2.0, "epoch": 0.5, "learning_rate": 1e-4, "tokens_per_second": 50.0}),
        ("step 10", {"eval_loss": 3.0}),
        ("end", None),
    ]
    assert sink.steps == [(9, 20), (10, 20), (10, 20), (10, 20)]


def test_each_adapter_has_curves_and_an_evaluation_of_its_own() -> None:
    recorder = Recorder()
    progress = TrackedProgress(RecordedProgress(), [recorder])
    progress.update(10, 20, metrics=Metrics(loss=2), point=HistoryPoint(step=10, loss=2, adapter="billing"))
    measured = AdapterEvaluation(name="billing", rows=4, baseline={"eval_loss": 3}, tuned={"eval_loss": 1})
    progress.end(20, result(Stage.EVALUATE, evaluation=Evaluation(rows=4, adapters=[measured])))
    assert recorder.told[:2] == [
        ("step 10", {"billing/loss": 2.0}),
        ("step 20", {"evaluation/billing/baseline/eval_loss": 3.0, "evaluation/billing/tuned/eval_loss": 1.0}),
    ]


def test_the_outcome_of_a_stage_is_told() -> None:
    recorder = Recorder()
    evaluation = Evaluation(rows=4, baseline={"accuracy": 0.25}, tuned={"accuracy": 1})
    artifact = Artifact(name="merged", format="safetensors", uri="pvc://out/merged", size_bytes=1, digest="sha256:0")
    TrackedProgress(RecordedProgress(), [recorder]).end(
        20, result(Stage.EXPORT, evaluation=evaluation, artifacts=[artifact])
    )
    assert recorder.told == [
        ("step 20", {"evaluation/baseline/accuracy": 0.25, "evaluation/tuned/accuracy": 1.0}),
        ("facts", {"artifact.merged.uri": "pvc://out/merged", "artifact.merged.digest": "sha256:0"}),
        ("end", "Succeeded"),
    ]


@pytest.mark.parametrize(
    ("ended", "want"),
    [
        (result(Stage.TRAIN), None),
        (result(Stage.EXPORT), "Succeeded"),
        (result(Stage.TRAIN, outcome="Preempted"), None),
        (result(Stage.EVALUATE, outcome="Failed"), "Failed"),
    ],
)
def test_a_run_ends_with_its_job(ended: StageResult, want: str | None) -> None:
    assert run_outcome(ended) == want


def test_a_server_that_fails_is_given_up_on_and_the_others_are_not() -> None:
    refusing, recorder = Refusing(), Recorder()
    progress = TrackedProgress(RecordedProgress(), [refusing, recorder])
    for step in (1, 2, 3):
        progress.update(step, 3, metrics=Metrics(loss=1), point=HistoryPoint(step=step, loss=1))
    progress.end(3, result())
    assert [what for what, _ in refusing.told] == ["step 1"]
    assert [what for what, _ in recorder.told] == ["step 1", "step 2", "step 3", "end"]


def test_a_server_that_hangs_does_not_hold_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LEAVE_SECONDS", 0.05)
    answer = threading.Event()
    hanging = Recorder()
    monkeypatch.setattr(hanging, "log", lambda _step, _values: answer.wait(30))
    progress = TrackedProgress(RecordedProgress(), [hanging])
    progress.update(1, 3, metrics=Metrics(loss=1), point=HistoryPoint(step=1, loss=1))
    progress.end(3, result())
    answer.set()
    assert ("end", None) not in hanging.told


def test_a_stage_that_raises_is_told_as_its_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    run = make_run(tmp_path, Stage.EVALUATE, reporting={"mlflow": {"trackingUri": "http://mlflow:5000"}})
    monkeypatch.setattr(tracking, "settings_of", lambda _run: {})
    monkeypatch.setattr(Run, "plan", type("Plan", (), {"training": type("T", (), {"total_steps": 7})}))
    with pytest.raises(GateUnmetError), tracked(run, lambda _run: [recorder]):
        raise GateUnmetError("accuracy must be at least 1", Evaluation(rows=1, tuned={"accuracy": 0.5}))
    assert recorder.told[1:] == [
        ("step 7", {"evaluation/tuned/accuracy": 0.5}),
        ("facts", {"failure.reason": "GateUnmet", "failure.message": "accuracy must be at least 1"}),
        ("end", "Failed"),
    ]


def test_prepare_tells_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, Stage.PREPARE)
    with tracked(run, lambda _run: [Recorder()]) as (same, tell):
        assert same is run
        tell(result(Stage.PREPARE))


def test_a_job_that_asks_for_no_server_loads_no_client_of_one() -> None:
    loaded = (
        "import sys, finetune_trainer.training.assembly; print([m for m in ('mlflow', 'wandb') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"
