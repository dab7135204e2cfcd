"""training.loadBest and training.earlyStopping: the weights that are kept are those of the best evaluation."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import SourceNotFoundError
from finetune_trainer.run import Run
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.stage_trainer import StageTrainer
from training_job import RecordedProgress, TrainingJob, metrics_of

pytestmark = pytest.mark.trainer

OVERFITTING: dict[str, Any] = {
    "strange_eval": True,
    "training": {
        "learning_rate": 0.01,
        "total_steps": 10,
        "eval_every": 2,
        "checkpoint_every": 4,
        "scheduler": "constant_with_warmup",
    },
}
"""The loss on the held-out rows rises while that on the train rows falls."""


def eval_loss_of_tuned(job: TrainingJob, run: Run) -> float:
    from finetune_trainer.models.load import load_tuned

    trainer, _ = assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())
    trainer.model = load_tuned(run)
    return StageTrainer.evaluate(trainer)["eval_loss"]


@pytest.mark.parametrize("method", ["lora", "full", "dora", "qlora"])
def test_the_kept_weights_have_the_best_eval_loss(tmp_path: Path, method: str) -> None:
    options = {
        **OVERFITTING,
        "training": {**OVERFITTING["training"], "learning_rate": 0.005 if method == "full" else 0.01},
    }
    job = TrainingJob(tmp_path, method={"type": method}, **options)
    run = job.run()
    result = execute(run)
    losses = run.progress.eval_losses()
    best = min(losses, key=lambda step: losses[step])
    assert best < 10, "the example no longer overfits"
    assert f"kept the weights of step {best}" in result.message
    assert metrics_of(result).eval_loss == losses[best]
    rounding = 0.01 if method == "qlora" else 1e-6  # it was trained on a rounded base, and is judged on the exact one
    assert losses[10] - losses[best] > 2 * rounding
    assert eval_loss_of_tuned(job, run) == pytest.approx(losses[best], abs=rounding)


def test_without_load_best_the_last_weights_are_kept(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, spec={"training": {"loadBest": False}}, **OVERFITTING)
    run = job.run()
    result = execute(run)
    losses = run.progress.eval_losses()
    assert metrics_of(result).eval_loss == losses[10] > min(losses.values())
    assert eval_loss_of_tuned(job, run) == pytest.approx(losses[10], abs=1e-6)
    assert job.checkpoint_steps() == [8, 10]


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, **OVERFITTING)
    run = job.run()
    execute(run)
    losses = run.progress.eval_losses()
    best = min(losses, key=lambda step: losses[step])
    assert job.checkpoint_steps() == sorted({best, 8, 10})


def test_early_stopping_ends_the_run_and_a_repeated_call_does_not_train(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, spec={"training": {"earlyStopping": {"patience": 2}}}, **OVERFITTING)
    run = job.run()
    result = execute(run)
    losses = run.progress.eval_losses()
    best = min(losses, key=lambda step: losses[step])
    assert max(losses) == best + 4 < 10
    assert f"trained {best + 4} of 10 steps" in result.message
    shutil.rmtree(job.workspace.tuned)
    again = job.run(attempt=2)
    repeated = execute(again)
    assert again.progress.of("seconds_left") == []
    assert metrics_of(repeated).eval_loss == losses[best]
    assert eval_loss_of_tuned(job, again) == pytest.approx(losses[best], abs=1e-6)


def test_a_resumed_run_still_knows_its_best_step_and_its_patience(tmp_path: Path) -> None:
    spec = {"training": {"earlyStopping": {"patience": 2}}}
    whole = TrainingJob(tmp_path / "whole", spec=spec, **OVERFITTING)
    want = execute(whole.run())
    job = TrainingJob(tmp_path / "cut", spec=spec, **OVERFITTING)
    run = job.run()
    step = want.history[-1].step - 2

    class Cut(RecordedProgress):
        def update(self, at: int, _total: int, **values: Any) -> None:
            if at == step + 1 and values.get("seconds_left") is not None:
                raise KeyError("crash")

    with pytest.raises(KeyError):
        execute(Run(run.request, run.workspace, run.claim_path, Cut(), environment={}))
    result = execute(job.run(attempt=2))
    assert result.history == want.history
    assert metrics_of(result).eval_loss == metrics_of(want).eval_loss


def test_an_old_checkpoint_that_somebody_deletes_meanwhile_does_no_harm(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    run = job.run()

    class Deleting(RecordedProgress):
        def update(self, step: int, _total: int, **_values: Any) -> None:
            if step == 5:
                shutil.rmtree(job.workspace.checkpoints / "checkpoint-2", ignore_errors=True)
                shutil.rmtree(job.workspace.checkpoints / "checkpoint-4", ignore_errors=True)

    execute(Run(run.request, run.workspace, run.claim_path, Deleting(), environment={}))
    assert job.checkpoint_steps() == [6, 8]


def test_a_best_checkpoint_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TrainingJob(tmp_path, **OVERFITTING)
    end = StageTrainer.train

    def train(self: StageTrainer, **options: Any) -> Any:
        done = end(self, **options)
        shutil.rmtree(self.store.path(self.state.best_global_step))
        return done

    monkeypatch.setattr(StageTrainer, "train", train)
    with pytest.raises(SourceNotFoundError, match=r"the best checkpoint, of step .* cannot be restored"):
        execute(job.run())
    assert not job.workspace.tuned.exists()
