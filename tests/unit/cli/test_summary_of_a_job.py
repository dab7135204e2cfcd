"""What `kubectl finetune summary` prints of an evaluation."""

import pytest
from rich.console import Console

from finetune_api.status import AdapterEvaluation, Evaluation, FineTuneJobStatus, GateResult, Phase
from finetune_api.v1alpha1 import FineTuneJob
from finetune_cli import render
from job_documents import smallest

GATE = GateResult(metric="eval_loss", required="at most 1", got=0.5, passed=True)
FIGURES = {"baseline": {"eval_loss": 3.0}, "tuned": {"eval_loss": 0.5}, "gates": [GATE]}


def printed(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> list[str]:
    job = FineTuneJob.model_validate(smallest())
    status = FineTuneJobStatus(phase=Phase.SUCCEEDED, evaluation=evaluation)
    Console(width=160).print(render.summary(job.model_copy(update={"status": status})))
    return capsys.readouterr().out.splitlines()


def test_one_model_has_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(Evaluation(rows=9, **FIGURES), capsys)
    assert [line.strip() for line in lines if "held-out rows" in line] == ["9 held-out rows"]
    assert any(line.split() == ["eval_loss", "3", "0.5", "-2.5"] for line in lines)


def test_each_adapter_has_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    adapters = [AdapterEvaluation(name=name, rows=9, **FIGURES) for name in ("billing", "returns")]
    lines = printed(Evaluation(rows=18, adapters=adapters), capsys)
    titles = [line.strip() for line in lines if "held-out rows" in line]
    assert titles == ["billing: 9 held-out rows", "returns: 9 held-out rows"]
    assert sum("gate: eval_loss at most 1" in line for line in lines) == 2
