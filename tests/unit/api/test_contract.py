"""The result of a stage fits into a termination message and is read back as it was."""

import json
import zlib
from base64 import b64encode
from hashlib import sha256

import pytest

from builders import make_plan
from finetune_api.conditions import Reason
from finetune_api.contract import TERMINATION_MESSAGE_LIMIT, StageResult, parse_result
from finetune_api.spec import Export
from finetune_api.status import (
    AdapterEvaluation,
    Artifact,
    DatasetReport,
    Evaluation,
    GateResult,
    HistoryPoint,
    LabelCount,
    LongRow,
    Parity,
    PlannedAdapter,
    Stage,
)

NAMES = [f"production-cpu-int4-candidate-{i}" for i in range(16)]


def artifact(name: str) -> Artifact:
    """An artefact as export reports it, in a long destination."""
    return Artifact(
        name=name,
        format="onnx",
        precision="int4",
        uri=f"pvc://published-models/teams/customer-support/assistants/2026-11-21/{name}",
        size_bytes=117_000_000,
        digest=f"sha256:{sha256(name.encode()).hexdigest()}",
        parity=Parity(max_abs=0.1234, kl=0.01061, top1=0.998, perplexity_ratio=1.0012, passed=True),
        tokens_per_second=31.4159,
    )


def longest_result(stage: Stage) -> StageResult:
    metrics = [f"metric-number-{i}" for i in range(32)]
    return StageResult(
        stage=stage,
        outcome="Succeeded",
        message="16 artefacts published, " * 40,
        plan=make_plan().model_copy(
            update={"exports": [Export(name=name, format="onnx", precision="int4") for name in NAMES]}
        ),
        history=[HistoryPoint(step=i, loss=4.0 / (1 + i)) for i in range(100)],
        evaluation=Evaluation(
            rows=200,
            baseline={name: i / 8 for i, name in enumerate(metrics)},
            tuned={name: i / 4 for i, name in enumerate(metrics)},
        ),
        artifacts=[artifact(name) for name in NAMES],
    )


def evaluation_of(adapters: int, metrics: int) -> Evaluation:
    """Adapters with numbers that do not compress, and as many gates as metrics, of which the last is not met."""
    measured = [
        AdapterEvaluation(
            name=f"customer-support-{i}",
            rows=100 + i,
            baseline={name: number(i, name, 0) for name in names},
            tuned={name: number(i, name, 1) for name in names},
            gates=[
                GateResult(metric=name, required="at least 0.5", got=number(i, name, 1), passed=name != names[-1])
                for name in names
            ],
        )
        for i in range(adapters)
        for names in [["eval_loss", *(f"metric-{m}" for m in range(1, metrics))]]
    ]
    return Evaluation(rows=1600, adapters=measured)


def number(adapter: int, name: str, side: int) -> float:
    """Six digits that nothing tells beforehand."""
    return int(sha256(f"{adapter} {name} {side}".encode()).hexdigest()[:8], 16) % 10**6 / 1e6


def test_the_figures_of_sixteen_adapters_arrive_whole() -> None:
    evaluation = evaluation_of(16, 4)
    found = parse_result(
        StageResult(
            stage=Stage.EVALUATE, outcome="Succeeded", message="m" * 1024, evaluation=evaluation
        ).termination_message()
    )
    assert found is not None
    assert found.evaluation == evaluation


def test_the_plan_of_sixteen_adapters_arrives_whole() -> None:
    adapters = [
        PlannedAdapter(
            name=noise(i)[:63],
            train_rows=1000 + 37 * i,
            eval_rows=100 + i,
            rank=8,
            alpha=16,
            total_steps=300 + 11 * i,
            batch_size=16,
            max_length=512 + 8 * i,
            estimated_bytes=9_876_543_210 + 12_345_678 * i,
        )
        for i in range(16)
    ]
    exports = [Export(name=adapter.name, format="peft") for adapter in adapters]
    plan = make_plan().model_copy(update={"adapters": adapters, "exports": exports})
    message = "; ".join(f"{adapter.name}: trained 300 of 300 steps" for adapter in adapters)[:1024]
    result = StageResult(stage=Stage.TRAIN, outcome="Succeeded", message=message, plan=plan)
    assert parse_result(result.termination_message()) == result


def test_of_figures_that_do_not_fit_the_losses_and_the_gates_that_are_not_met_arrive() -> None:
    result = StageResult(stage=Stage.EVALUATE, outcome="Failed", message="no", evaluation=evaluation_of(16, 16))
    found = parse_result(result.termination_message())
    assert found is not None
    assert found.evaluation is not None
    assert [adapter.rows for adapter in found.evaluation.adapters] == [*range(100, 116)]
    for adapter in found.evaluation.adapters:
        assert ([*adapter.tuned], [gate.metric for gate in adapter.gates]) == (["eval_loss"], ["metric-15"])


def test_a_short_result_can_be_read_by_people() -> None:
    result = StageResult(stage=Stage.EXPORT, outcome="Succeeded", artifacts=[artifact("adapter")])
    assert json.loads(result.termination_message())["artifacts"][0]["name"] == "adapter"
    assert parse_result(result.termination_message()) == result


def test_a_result_of_sixteen_exports_and_thirty_two_metrics_arrives_whole() -> None:
    result = longest_result(Stage.EXPORT)
    assert len(result.model_dump_json(by_alias=True, exclude_none=True)) > 3 * TERMINATION_MESSAGE_LIMIT
    message = result.termination_message()
    assert len(message.encode()) <= TERMINATION_MESSAGE_LIMIT
    found = parse_result(message)
    assert found is not None
    assert (found.artifacts, found.evaluation, found.plan) == (result.artifacts, result.evaluation, result.plan)


def test_of_what_does_not_fit_the_curve_goes_first() -> None:
    points = [HistoryPoint(step=i, loss=round(1 / (i + 1.37), 5)) for i in range(1200)]
    found = parse_result(
        StageResult(stage=Stage.TRAIN, outcome="Succeeded", message="done", history=points).termination_message()
    )
    assert found is not None
    assert found.message == "done"
    assert 0 < len(found.history) < len(points)
    assert (found.history[0], found.history[-1]) == (points[0], points[-1])


def noise(i: int) -> str:
    """Text that does not compress."""
    return "".join(sha256(f"{i}-{part}".encode()).hexdigest() for part in range(16))


def test_of_a_long_report_on_data_the_first_warnings_and_the_longest_row_arrive() -> None:
    warnings = [noise(i)[:900] for i in range(16)]
    rows = [LongRow(row=noise(i)[:250], tokens=900 - i) for i in range(5)]
    report = DatasetReport(format="text", train_rows=9, eval_rows=1, warnings=warnings, longest_rows=rows)
    result = StageResult(stage=Stage.PREPARE, outcome="Succeeded", message="done", dataset=report)
    found = parse_result(result.termination_message())
    assert found is not None
    assert found.dataset is not None
    assert (found.message, found.dataset.train_rows) == ("done", 9)
    assert (found.dataset.warnings, found.dataset.longest_rows) == (warnings[:2], rows[:1])


def test_of_labels_that_do_not_fit_the_number_arrives() -> None:
    labels = [LabelCount(label=noise(i)[:128], count=i) for i in range(50)]
    report = DatasetReport(format="labelled-text", train_rows=9, eval_rows=1, labels=labels, label_count=77)
    result = StageResult(stage=Stage.PREPARE, outcome="Succeeded", message="done", dataset=report)
    found = parse_result(result.termination_message())
    assert found is not None
    assert found.dataset is not None
    assert (found.dataset.labels, found.dataset.label_count) == ([], 77)
    few = result.model_copy(update={"dataset": report.model_copy(update={"labels": labels[:8]})})
    assert parse_result(few.termination_message()) == few


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "[]",
        '"text"',
        "null",
        '{"zlib": 7}',
        '{"zlib": "not base64!"}',
        '{"zlib": "AAAA"}',
        json.dumps({"zlib": b64encode(zlib.compress(b"nothing to read")).decode()}),
        json.dumps({"zlib": b64encode(zlib.compress(b" " * (1 << 26))).decode()}),
        '{"stage": "train"}',
    ],
)
def test_what_is_no_result_is_none(text: str) -> None:
    assert parse_result(text) is None


def test_a_failed_result_keeps_its_reason() -> None:
    result = StageResult(stage=Stage.TRAIN, outcome="Failed", reason=Reason.NON_FINITE_LOSS, message="step 3: NaN")
    assert parse_result(result.termination_message()) == result
