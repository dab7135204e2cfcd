"""A job's run on a real MLflow server, and on Weights & Biases in offline mode."""

import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from wandb.proto.wandb_internal_pb2 import Record

from finetune_api.exit_codes import ExitCode
from finetune_trainer import local_run
from finetune_trainer.cli import main
from mlflow_server import mlflow_server
from tiny_models import build_tiny_model
from tuned_runs import QUESTIONS

pytestmark = pytest.mark.trainer
BLOCK = 32768
EXAMPLE = Path(__file__).parents[2] / "examples" / "reporting.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    build_tiny_model("llama", tmp_path / "models" / "SmolLM2-135M-Instruct")
    (tmp_path / "datasets").mkdir()
    rows = [
        {"prompt": f"{question} ({i})", "completion": answer}
        for i in range(2)
        for question, answer in QUESTIONS.items()
    ]
    (tmp_path / "datasets" / "support.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run_example(claims: Path, monkeypatch: pytest.MonkeyPatch, reporting: dict[str, Any], **training: Any) -> int:
    """The example with another server, its stages in this process."""

    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, main(command[command.index("finetune_trainer.cli") + 1 :]))

    monkeypatch.setattr(local_run.subprocess, "run", run_here)
    job = yaml.safe_load(EXAMPLE.read_text())
    job["spec"]["reporting"] = reporting
    job["spec"]["training"] |= training
    manifest = claims / "job.yaml"
    manifest.write_text(yaml.safe_dump(job))
    named = ["--claim", f"models={claims / 'models'}", "--claim", f"datasets={claims / 'datasets'}"]
    return main(["run", "--job", str(manifest), "--output", str(claims / "out"), *named])


def test_a_job_is_one_run_of_mlflow_with_settings_curves_results_and_artefacts(
    claims: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporting = {"mlflow": {"trackingUri": server, "experiment": "support"}}
    assert run_example(claims, monkeypatch, reporting) == ExitCode.DONE
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("support")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("support-tracked", "FINISHED")
    assert run.data.params["training.total_steps"] == "12"
    assert run.data.params["method.type"] == "lora"
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in curve] == [2, 4, 6, 8, 10, 12]
    assert curve[-1].value < curve[0].value
    assert [point.step for point in client.get_metric_history(run.info.run_id, "eval_loss")] == [6, 12]
    report = json.loads((claims / "models" / "support-tracked" / "report.json").read_text())
    tuned = float(report["evaluation"]["tuned"]["eval_loss"])
    assert run.data.metrics["evaluation/tuned/eval_loss"] == pytest.approx(tuned, rel=1e-6)
    assert run.data.tags["artifact.adapter.uri"] == "pvc://models/support-tracked/adapter"
    assert run.data.tags["slmops.dev/job-name"] == "support-tracked"


def test_a_job_that_fails_is_a_failed_run(claims: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reporting = {"mlflow": {"trackingUri": server, "experiment": "failing"}}
    assert run_example(claims, monkeypatch, reporting, learningRate=1e30) == ExitCode.NON_FINITE_LOSS
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("failing")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "training.learningRate" in run.data.tags["failure.message"]


def test_a_server_that_is_not_there_costs_a_warning_and_nothing_else(
    claims: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finetune_trainer.reporting.mlflow_tracker.RETRIES", 0)
    reporting = {"mlflow": {"trackingUri": "http://127.0.0.1:9"}}
    assert run_example(claims, monkeypatch, reporting) == ExitCode.DONE
    assert "tracking is given up for this stage" in "".join(capfd.readouterr())


def test_weights_and_biases_gets_the_curve_offline(claims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    reporting = {"wandb": {"project": "support", "secretRef": "wandb-key"}}
    assert run_example(claims, monkeypatch, reporting) == ExitCode.DONE
    rows = [row for file in sorted((claims / "out").rglob("*.wandb")) for row in _history(file)]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert any("evaluation/tuned/eval_loss" in row for row in rows)


def _history(file: Path) -> Iterator[dict[str, Any]]:
    for data in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            yield {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}


def _records(content: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format: blocks of 32 KiB, each part behind its checksum, length and kind."""
    place, whole, last_kinds = 7, b"", (1, 4)
    while place + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in last_kinds:
            yield whole
            whole = b""
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
