"""A pod that is asked to stop leaves with a verified checkpoint and exit code 75, and never with a final output."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import PreemptedError
from finetune_trainer.run import Run
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly
from finetune_trainer.training.stage_trainer import StageTrainer
from training_job import RecordedProgress, TrainingJob

pytestmark = pytest.mark.trainer

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training_job import RecordedProgress, TrainingJob
from finetune_trainer.errors import StageError
from finetune_trainer.run import Run
from finetune_trainer.stages.train import execute

class Announcing(RecordedProgress):
    def update(self, step, total_steps, **values):
        super().update(step, total_steps, **values)
        if values.get("seconds_left") is not None:
            print(step, flush=True)

job = TrainingJob(Path({folder!r}), eval_rows=0, training={{"total_steps": 100000, "checkpoint_every": 100000}})
run = job.run()
try:
    execute(Run(run.request, run.workspace, run.claim_path, Announcing(), environment={{}}))
except StageError as error:
    print(error, flush=True)
    sys.exit(int(error.exit_code))
"""


def test_sigterm_ends_a_real_process_with_a_verified_checkpoint_and_exit_code_75(tmp_path: Path) -> None:
    source = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "3":
                break
        child.send_signal(signal.SIGTERM)
        rest = child.stdout.read()
    assert child.returncode == 75
    job = TrainingJob(tmp_path, eval_rows=0, training={"total_steps": 100000, "checkpoint_every": 100000})
    [step] = job.checkpoint_steps()
    assert f"the checkpoint of step {step} is complete" in rest
    assert job.manifest(step)["finished"] is False
    assert assembly.checkpoint_store(job.run(attempt=2)).verified(step) is not None
    assert not job.workspace.tuned.exists()


class Terminating(RecordedProgress):
    """Sends this process a SIGTERM when step `at` is reported."""

    at = 0

    def update(self, step: int, total_steps: int, **values: Any) -> None:
        super().update(step, total_steps, **values)
        if step == self.at and values.get("seconds_left") is not None:
            os.kill(os.getpid(), signal.SIGTERM)


def preempt(job: TrainingJob, at: int, attempt: int = 1) -> Terminating:
    progress = Terminating()
    progress.at = at
    run = job.run(attempt)
    with pytest.raises(PreemptedError):
        execute(Run(run.request, run.workspace, run.claim_path, progress, environment={}))
    return progress


def uninterrupted(folder: Path, **options: Any) -> dict[int, float]:
    run = TrainingJob(folder, **options).run()
    execute(run)
    return run.progress.losses()


def test_a_preempted_run_goes_on_and_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    want_losses = uninterrupted(tmp_path / "whole")
    job = TrainingJob(tmp_path / "cut")
    progress = preempt(job, at=3)
    assert progress.of("checkpoint")[-1].step == 3
    assert not job.workspace.tuned.exists()
    preempt(job, at=5, attempt=2)
    run = job.run(attempt=3)
    execute(run)
    assert run.progress.losses() == want_losses


def test_an_evaluation_that_was_due_is_made_up_for(tmp_path: Path) -> None:
    whole = TrainingJob(tmp_path / "whole").run()
    want = execute(whole)
    job = TrainingJob(tmp_path / "cut")
    preempt(job, at=4)
    run = job.run(attempt=2)
    result = execute(run)
    assert run.progress.eval_losses() == whole.progress.eval_losses()
    assert result.history == want.history


def test_sigterm_before_the_first_step_ends_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TrainingJob(tmp_path)
    load = assembly.load_source  # type: ignore[attr-defined]

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*arguments, **options)

    monkeypatch.setattr(assembly, "load_source", interrupted)
    run = job.run()
    with pytest.raises(PreemptedError, match="nothing was trained yet in this attempt"):
        execute(run)
    assert run.progress.updates == []
    assert job.checkpoint_steps() == []


def test_sigterm_during_an_evaluation_cuts_it_short_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainingJob(tmp_path / "whole").run()
    execute(whole)
    job = TrainingJob(tmp_path / "cut")
    evaluated = StageTrainer._evaluated
    calls: list[Any] = []

    def interrupted(self: StageTrainer, batch: Any) -> Any:
        if not calls:
            os.kill(os.getpid(), signal.SIGTERM)
        calls.append(batch)
        return evaluated(self, batch)

    monkeypatch.setattr(StageTrainer, "_evaluated", interrupted)
    with pytest.raises(PreemptedError, match="the checkpoint of step 4 is complete"):
        execute(job.run())
    assert len(calls) == 1
    run = job.run(attempt=2)
    execute(run)
    assert run.progress.losses() == whole.progress.losses()
    assert run.progress.eval_losses() == whole.progress.eval_losses()


def test_sigterm_while_saving_leaves_with_that_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.training import checkpoints

    seal = checkpoints.seal

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return seal(*arguments, **options)

    monkeypatch.setattr(checkpoints, "seal", interrupted)
    job = TrainingJob(tmp_path, eval_rows=0)
    with pytest.raises(PreemptedError, match="the checkpoint of step 2 is complete"):
        execute(job.run())
    assert job.checkpoint_steps() == [2]


def test_sigterm_in_the_last_step_keeps_the_finished_checkpoint_for_the_next_attempt(tmp_path: Path) -> None:
    want_losses = uninterrupted(tmp_path / "whole", eval_rows=0)
    job = TrainingJob(tmp_path / "cut", eval_rows=0)
    preempt(job, at=8)
    assert not job.workspace.tuned.exists()
    run = job.run(attempt=2)
    result = execute(run)
    assert [point.loss for point in result.history] == [*want_losses.values()]
    assert job.checkpoint_steps()[-1] == 8


@pytest.mark.parametrize(("method", "precision"), [("lora", "fp32"), ("full", "bf16")])
def test_sigterm_in_the_last_step_owes_its_evaluation_to_the_next_attempt(
    tmp_path: Path, method: str, precision: str
) -> None:
    options: dict[str, Any] = {"training": {"eval_every": 4, "precision": precision}, "method": {"type": method}}
    want = execute(TrainingJob(tmp_path / "whole", **options).run())
    job = TrainingJob(tmp_path / "cut", **options)
    preempt(job, at=8)
    result = execute(job.run(attempt=2))
    assert [(point.step, point.eval_loss) for point in result.history if point.eval_loss] == [
        (point.step, point.eval_loss) for point in want.history if point.eval_loss
    ]
    assert "kept the weights" not in result.message
    assert result.message.startswith("trained 8 of 8 steps")


def test_the_handler_that_was_there_before_is_back_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    preempt(TrainingJob(tmp_path, eval_rows=0), at=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_result_of_a_preempted_run_is_not_a_training_result(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    preempt(job, at=5)
    state = json.loads((job.workspace.checkpoints / "checkpoint-5" / "trainer_state.json").read_text())
    assert state["global_step"] == 5
    assert [path.name for path in job.folder.iterdir() if "tuned" in path.name] == []
