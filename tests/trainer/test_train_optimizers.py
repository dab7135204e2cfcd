"""training.optimizer, scheduler, earlyStopping and gradientCheckpointing, as they run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.run import Run
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.stage_trainer import StageTrainer
from training_job import TrainingJob, crash

pytestmark = pytest.mark.trainer
CLASSES = {
    "adamw": "AdamW",
    "adamw-8bit": "AdamW",
    "paged-adamw-8bit": "AdamW",
    "adafactor": "Adafactor",
    "sgd": "SGD",
}


def trainer_of(run: Run) -> StageTrainer:
    return assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())[0]


@pytest.mark.parametrize("name", CLASSES)
def test_every_optimizer_learns_and_resumes_bit_for_bit(tmp_path: Path, name: str) -> None:
    # Rank 40 makes tensors of more than 4,096 elements, whose moments bitsandbytes keeps in 8 bits.
    options: dict[str, Any] = {
        "eval_rows": 0,
        "method": {"rank": 40, "alpha": 80},
        "training": {"optimizer": name, "learning_rate": 5.0 if name == "sgd" else 0.005, "total_steps": 6},
    }
    whole = TrainingJob(tmp_path / "whole", **options)
    run = whole.run()
    execute(run)
    losses = run.progress.losses()  # type: ignore[attr-defined]
    assert losses[6] < losses[1] - 0.05
    cut = TrainingJob(tmp_path / "cut", **options)
    crash(cut, at=5)
    execute(cut.run(attempt=2))
    for key, tensor in whole.adapter().items():
        assert torch.equal(tensor, cut.adapter()[key]), key


@pytest.mark.parametrize(("name", "want"), CLASSES.items())
def test_the_optimizer_is_the_one_asked_for(tmp_path: Path, name: str, want: str) -> None:
    run = TrainingJob(tmp_path, training={"optimizer": name}).run()
    optimizer = trainer_of(run).create_optimizer()
    assert type(optimizer).__name__ == want
    of_bitsandbytes = type(optimizer).__module__.startswith("bitsandbytes")
    assert of_bitsandbytes is name.endswith("8bit")
    if of_bitsandbytes:
        assert (optimizer.args.optim_bits, optimizer.is_paged) == (8, name.startswith("paged"))


def test_every_scheduler_takes_the_course_of_its_name(tmp_path: Path) -> None:
    """Peak 1, 10 steps of which 2 warm up: rates at steps 1, 2, 6 and 9, each by its definition."""
    want = {
        "cosine": (0.5, 1, 0.5, 0.0381),
        "linear": (0.5, 1, 0.5, 0.125),
        "constant": (1, 1, 1, 1),
        "constant_with_warmup": (0.5, 1, 1, 1),
        "polynomial": (0.5, 1, 0.5, 0.125),
        "inverse_sqrt": (0.5, 1, (2 / 6) ** 0.5, (2 / 9) ** 0.5),
    }
    job = TrainingJob(tmp_path)
    for name, rates in want.items():
        job.replan(scheduler=name, learning_rate=1.0, warmup_steps=2, total_steps=10)
        trainer = trainer_of(job.run())
        trainer.create_optimizer_and_scheduler(10)
        got = []
        for _ in range(10):
            got.append(trainer.lr_scheduler.get_last_lr()[0])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        assert [got[step] for step in (1, 2, 6, 9)] == pytest.approx(rates, abs=1e-3), name


@pytest.mark.parametrize(("metric", "want_last"), [("eval_loss", 4), ("perplexity", 10)])
def test_min_delta_is_in_the_unit_of_the_metric_that_is_watched(tmp_path: Path, metric: str, want_last: int) -> None:
    # The loss falls by about 0.05 an evaluation at 6.2 nats: not 0.2 nats, but 25 in perplexity.
    stopping = {"metric": metric, "patience": 1, "minDelta": 0.2}
    training = {"eval_every": 2, "total_steps": 10, "learning_rate": 0.002}
    job = TrainingJob(tmp_path, spec={"training": {"earlyStopping": stopping}}, training=training)
    run = job.run()
    result = execute(run)
    losses = run.progress.eval_losses()  # type: ignore[attr-defined]
    assert max(losses) == want_last
    assert result.metrics is not None
    assert result.metrics.eval_loss == min(losses.values())


@pytest.mark.parametrize("method", ["lora", "qlora", "dora", "full"])
def test_recomputed_activations_give_the_same_gradients(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: dict[bool, list[float]] = {False: [], True: []}
    original = StageTrainer._get_grad_norm

    def spy(self: StageTrainer, model: Any, grad_norm: Any = None) -> Any:
        norm = original(self, model, grad_norm)
        norms[self.model.is_activation_checkpointing].append(float(norm))
        return norm

    monkeypatch.setattr(StageTrainer, "_get_grad_norm", spy)
    for recompute in (False, True):
        job = TrainingJob(
            tmp_path / str(recompute),
            method={"type": method},
            training={"gradient_checkpointing": recompute, "total_steps": 3},
            eval_rows=0,
        )
        execute(job.run())
    assert len(norms[True]) == 3
    assert norms[True] == pytest.approx(norms[False], rel=1e-5)
