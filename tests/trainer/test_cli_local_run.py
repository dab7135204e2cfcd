"""`finetune-trainer run`: a job on this machine, each stage in a process of its own as in a pod."""

import json
import shutil
from pathlib import Path

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_trainer.cli import main
from s3_server import s3_server
from tiny_models import build_tiny_model

pytestmark = pytest.mark.trainer
JOB = """
apiVersion: slmops.dev/v1alpha1
kind: FineTuneJob
metadata: {name: bot}
spec:
  task: completion
  model: {source: "pvc://models/tiny"}
  dataset: {train: {source: "pvc://data/train.jsonl"}}
  dryRun: true
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(build_tiny_model("qwen2"), tmp_path / "models" / "tiny")
    (tmp_path / "data").mkdir()
    rows = (json.dumps({"prompt": f"p{i}", "completion": " c"}) + "\n" for i in range(20))
    (tmp_path / "data" / "train.jsonl").write_text("".join(rows))
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def run(root: Path) -> int:
    claims = ["--claim", f"models={root / 'models'}", "--claim", f"data={root / 'data'}"]
    return main(["run", "--job", str(root / "job.yaml"), "--output", str(root / "out"), *claims])


def test_a_dry_run_prepares_and_shows_the_plan(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(root) == ExitCode.DONE
    shown = capfd.readouterr()
    assert "prepare: Succeeded 18 rows to train on and 2 held out" in shown.out
    assert "rows: 18 to train on, 2 held out" in shown.out
    assert "plan: " in shown.out
    assert "== train" not in shown.out
    assert "stage started" in shown.err
    assert (root / "out" / "workspace" / "plan.json").exists()


def test_the_keys_of_this_machine_are_also_those_of_the_destination(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path_factory.mktemp("s3"), "out") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for bucket, code in (("out", ExitCode.DONE), ("nobucket", ExitCode.OUTPUT_UNWRITABLE)):
            (root / "job.yaml").write_text(f"{JOB}  output: {{destination: 's3://{bucket}/bot'}}\n")
            assert run(root) == code
        assert server.objects("out") == {}


def test_a_stage_that_is_done_is_announced_again(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(root)
    first = capfd.readouterr().out.splitlines()
    plan = (root / "out" / "workspace" / "plan.json").stat().st_mtime_ns
    assert run(root) == ExitCode.DONE
    second = capfd.readouterr()
    assert [line for line in second.out.splitlines() if "took" not in line] == [x for x in first if "took" not in x]
    assert "its result is announced again" in second.err
    assert (root / "out" / "workspace" / "plan.json").stat().st_mtime_ns == plan


def test_a_failure_has_the_exit_code_and_message_of_a_pod(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "data" / "train.jsonl").write_text('{"prompt": "p"}\n')
    assert run(root) == ExitCode.INVALID_DATA
    assert "prepare: Failed (InvalidData)" in capfd.readouterr().out
