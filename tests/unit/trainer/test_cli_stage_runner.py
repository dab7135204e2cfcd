"""The runner around stages that the tests supply: the real ones are tested in tests/trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from finetune_api.contract import StageResult, parse_result
from finetune_api.exit_codes import ExitCode
from finetune_api.status import Stage
from finetune_trainer.errors import GateUnmetError, InvalidDataError, PreemptedError
from finetune_trainer.run import Run
from finetune_trainer.stage_runner import Surroundings, run_stage
from trainer_requests import make_request, write_request


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    yield
    os.environ.clear()
    os.environ.update(before)
    signal.signal(signal.SIGTERM, handler)


class Pod:
    """One pod's surroundings, and the stage that runs in it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.message = root / "termination-log"
        self.calls = 0
        self._monkeypatch = monkeypatch

    def run(self, outcome: Any = None, stage: Stage = Stage.EVALUATE, **request: Any) -> int:
        """Run `stage`: `outcome` is an exception to raise, a result to return, or a callable on the Run."""

        def execute(run: Run) -> StageResult:
            self.calls += 1
            if isinstance(outcome, BaseException):
                raise outcome
            if callable(outcome):
                outcome(run)
            return outcome if isinstance(outcome, StageResult) else StageResult(stage=stage, outcome="Succeeded")

        module = ModuleType(f"finetune_trainer.stages.{stage}")
        vars(module)["execute"] = execute
        self._monkeypatch.setitem(sys.modules, module.__name__, module)
        file = write_request(self.root / "request.json", make_request(stage, **request))
        return self.run_file(file, stage)

    def run_file(self, file: Path, stage: Stage) -> int:
        """Run `stage` with the request in `file`."""
        claims = self.root / "claims"
        surroundings = Surroundings(self.root / "workspace", lambda claim: claims / claim, self.message)
        return run_stage(stage, file, surroundings)

    @property
    def result(self) -> StageResult:
        """What the kubelet would read."""
        result = parse_result(self.message.read_text())
        assert result is not None
        return result


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


def test_a_stage_that_succeeds_is_announced_and_kept(pod: Pod) -> None:
    assert pod.run() == ExitCode.DONE
    assert pod.result.outcome == "Succeeded"
    assert pod.result.finished_at is not None
    assert (pod.root / "workspace" / "results" / "evaluate.json").exists()


def test_a_stage_that_ended_well_is_not_done_again(pod: Pod) -> None:
    pod.run(attempt=1)
    want = pod.message.read_text()
    pod.message.write_text("")
    assert pod.run(attempt=2) == ExitCode.DONE
    assert pod.calls == 1
    assert pod.message.read_text() == want


def test_a_change_of_policy_does_not_repeat_a_stage(pod: Pod) -> None:
    pod.run()
    pod.run(policy={"suspend": False, "activeDeadlineSeconds": 60})
    assert pod.calls == 1


def test_another_spec_repeats_the_stage(pod: Pod) -> None:
    pod.run()
    pod.run(training={"epochs": 1})
    assert pod.calls == 2


def test_another_job_on_the_same_claim_runs_for_itself_and_touches_nothing(pod: Pod) -> None:
    pod.run(uid="job-one")
    kept = (pod.root / "workspace" / "results" / "evaluate.json").read_bytes()
    pod.run(uid="job-two")
    assert pod.calls == 2
    assert (pod.root / "workspace" / "results" / "evaluate.json").read_bytes() == kept
    assert (pod.root / "workspace" / "job-job-two" / "results" / "evaluate.json").exists()


def test_a_failed_stage_runs_again(pod: Pod) -> None:
    assert pod.run(InvalidDataError("line 3 is empty")) == ExitCode.INVALID_DATA
    assert (pod.result.outcome, pod.result.reason, pod.result.message) == ("Failed", "InvalidData", "line 3 is empty")
    assert pod.run() == ExitCode.DONE
    assert pod.calls == 2


def test_preemption_has_its_own_outcome_and_code(pod: Pod) -> None:
    assert pod.run(PreemptedError("saved at step 7")) == ExitCode.PREEMPTED
    assert (pod.result.outcome, pod.result.reason) == ("Preempted", "Preempted")


def test_an_unexpected_exception_is_a_crash_with_type_and_place(pod: Pod) -> None:
    assert pod.run(KeyError("weights")) == ExitCode.CRASHED
    assert pod.result.message.startswith("KeyError: 'weights' (")


def test_a_failed_result_with_details_keeps_them_and_has_the_code_of_its_reason(pod: Pod) -> None:
    failed = StageResult(stage=Stage.EVALUATE, outcome="Failed", reason=GateUnmetError("").reason, message="0.1 < 0.8")
    assert pod.run(failed) == ExitCode.GATE_UNMET
    assert pod.result.message == "0.1 < 0.8"
    assert not (pod.root / "workspace" / "results" / "evaluate.json").exists()


def test_a_leftover_attempt_never_starts(pod: Pod) -> None:
    pod.run(InvalidDataError("x"), attempt=2)
    assert pod.run(attempt=1) == ExitCode.PREEMPTED
    assert pod.calls == 1


def test_an_attempt_that_is_overtaken_commits_nothing(pod: Pod) -> None:
    def overtake(run: Run) -> None:
        (run.workspace.root / "attempts" / "evaluate").write_text("2")

    assert pod.run(overtake, attempt=1) == ExitCode.PREEMPTED
    assert not (pod.root / "workspace" / "results" / "evaluate.json").exists()


def test_a_request_from_a_newer_operator_is_refused_before_it_is_read(pod: Pod) -> None:
    file = pod.root / "request.json"
    file.write_text(json.dumps({"contractVersion": 99, "somethingNew": True}))
    assert pod.run_file(file, Stage.EVALUATE) == ExitCode.TRAINER_TOO_OLD
    assert "upgrade the trainer image" in pod.result.message


def test_fields_that_cannot_be_honoured_are_named(pod: Pod) -> None:
    assert pod.run(distributed={"strategy": "fsdp", "nodes": 2}) == ExitCode.NOT_SUPPORTED
    assert pod.result.message == "not supported yet: distributed.strategy=fsdp, distributed.nodes=2"
    assert pod.calls == 0


@pytest.mark.parametrize(
    ("content", "want_code", "want"),
    [
        ("{", ExitCode.INVALID_SPEC, "is not JSON"),
        ("[]", ExitCode.INVALID_SPEC, "must hold a JSON object"),
        ('{"contractVersion": 1}', ExitCode.INVALID_SPEC, "job: Field required"),
        (None, ExitCode.SOURCE_NOT_FOUND, "is missing"),
    ],
)
def test_a_request_that_cannot_be_used_says_why(pod: Pod, content: str | None, want_code: int, want: str) -> None:
    file = pod.root / "request.json"
    if content is not None:
        file.write_text(content)
    assert pod.run_file(file, Stage.EVALUATE) == want_code
    assert want in pod.result.message


def test_a_request_for_another_stage_is_refused(pod: Pod) -> None:
    file = write_request(pod.root / "request.json", make_request(Stage.TRAIN))
    assert pod.run_file(file, Stage.EVALUATE) == ExitCode.INVALID_SPEC


@pytest.mark.parametrize(("stage", "want"), [(Stage.PREPARE, None), (Stage.TRAIN, "1")])
def test_only_prepare_may_reach_a_hub(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, stage: Stage, want: str | None
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found: dict[str, str | None] = {}
    pod.run(lambda _: found.update(os.environ), stage, model={"source": "hf://org/name"})
    assert found.get("HF_HUB_OFFLINE") == want


def test_caches_and_threads_are_set_before_the_stage_is_imported(pod: Pod) -> None:
    found: dict[str, str] = {}
    pod.run(lambda _: found.update(os.environ), cpu_limit=0.5)
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    assert Path(found["HF_HOME"]).is_relative_to(pod.root / "workspace")


def test_a_full_termination_log_does_not_hide_the_cause(pod: Pod) -> None:
    pod.message = pod.root / "missing" / "termination-log"
    assert pod.run(InvalidDataError("x")) == ExitCode.INVALID_DATA


def test_sigterm_ends_a_stage_at_once_with_143(tmp_path: Path) -> None:
    module = tmp_path / "sleeper.py"
    module.write_text(
        "import sys, time, types\n"
        "from pathlib import Path\n"
        "from finetune_trainer.cli import main\n"
        "stage = types.ModuleType('finetune_trainer.stages.evaluate')\n"
        "def execute(run):\n"
        f"    Path({str(tmp_path / 'started')!r}).touch()\n"
        "    time.sleep(600)\n"
        "stage.execute = execute\n"
        "sys.modules[stage.__name__] = stage\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    request = write_request(tmp_path / "request.json", make_request(Stage.EVALUATE))
    places = ["--request", request, "--workspace", tmp_path / "workspace", "--termination-log", tmp_path / "message"]
    arguments = [sys.executable, str(module), "evaluate", *map(str, places), "--port", "0"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, lines = process.communicate()
    assert process.returncode == ExitCode.TERMINATED
    result = parse_result((tmp_path / "message").read_text())
    assert result is not None
    assert result.outcome == "Preempted"
    first = json.loads(lines.splitlines()[0])
    assert (first["namespace"], first["name"], first["stage"], first["attempt"]) == ("team", "bot", "evaluate", 1)
