"""training.loss: each loss against its definition in float64, and a user's own by entry point."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.spec import Loss
from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.run import Run
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.rows import IGNORED, load_rows, supervised_counts
from finetune_trainer.training.stage_trainer import StageTrainer
from finetune_trainer.training.token_losses import balanced_weights, check_loss, token_loss
from training_job import TrainingJob

pytestmark = pytest.mark.trainer
LOGITS = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 3, 3, 10, 7, 3, 0])
COUNTS = torch.bincount(TARGETS, minlength=11)


def losses(**loss: Any) -> torch.Tensor:
    return token_loss(Loss.model_validate(loss), lambda: COUNTS)(LOGITS, TARGETS).double()


def log_probabilities() -> torch.Tensor:
    return LOGITS.double().log_softmax(-1)


def of_target() -> torch.Tensor:
    return log_probabilities().gather(1, TARGETS[:, None])[:, 0]


@pytest.mark.parametrize(("asked", "gamma"), [({}, 2), ({"gamma": 0}, 0), ({"gamma": 3.5}, 3.5)])
def test_focal_loss_weighs_by_what_is_missing_to_certainty(asked: dict[str, Any], gamma: float) -> None:
    want = -((1 - of_target().exp()) ** gamma) * of_target()
    torch.testing.assert_close(losses(type="focal", **asked), want, rtol=1e-5, atol=1e-6)


def test_focal_loss_of_a_certain_token_has_a_finite_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    token_loss(Loss(type="focal", gamma=0.5), lambda: COUNTS)(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize(("asked", "smoothing"), [({}, 0.1), ({"smoothing": 0.3}, 0.3)])
def test_label_smoothing_gives_some_of_the_mass_to_all_tokens(asked: dict[str, Any], smoothing: float) -> None:
    want = -(1 - smoothing) * of_target() - smoothing * log_probabilities().mean(dim=1)
    torch.testing.assert_close(losses(type="label-smoothing", **asked), want, rtol=1e-5, atol=1e-6)


def test_class_weights_let_every_token_that_occurs_count_alike() -> None:
    weights = balanced_weights(COUNTS)
    assert (weights * COUNTS)[COUNTS > 0].tolist() == pytest.approx([7 / 4] * 4)
    assert weights[COUNTS == 0].abs().sum() == 0
    torch.testing.assert_close(losses(type="class-weighted"), -of_target() * weights[TARGETS], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "want"),
    [
        ({"type": "focall"}, "training.loss.type: 'focall' is not known; choose from default, focal, label-smoothing"),
        ({"type": "default", "gamma": 1}, "training.loss.gamma belongs to type: focal, not default"),
        ({"type": "focal", "smoothing": 0.1}, "training.loss.smoothing belongs to type: label-smoothing, not focal"),
    ],
)
def test_what_does_not_fit_together_is_refused(loss: dict[str, Any], want: str) -> None:
    with pytest.raises(InvalidSpecError, match=want):
        check_loss(Loss.model_validate(loss))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path that registers losses, as pip would leave it."""
    folder = tmp_path / "site"
    metadata = folder / "acme_losses-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-losses\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[finetune_trainer.losses]\ndoubled = acme_losses:doubled\nmean = acme_losses:mean\ngone = acme_losses:gone\n"
    )
    (folder / "acme_losses.py").write_text(
        "from torch.nn.functional import cross_entropy\n"
        "def doubled(logits, targets):\n    return 2 * cross_entropy(logits, targets, reduction='none')\n"
        "def mean(logits, targets):\n    return cross_entropy(logits, targets)\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "acme_losses", raising=False)
    return folder


def test_a_registered_loss_is_trained_with_and_evaluation_stays_in_nats(tmp_path: Path, installed: Path) -> None:
    runs = {}
    for name in ("default", "doubled"):
        job = TrainingJob(tmp_path / name, spec={"training": {"loss": {"type": name}}}, training={"optimizer": "adamw"})
        runs[name] = job.run()
        execute(runs[name])
    plain, doubled = runs["default"].progress, runs["doubled"].progress
    # Adam's steps do not depend on the scale of the loss, so both runs take the same way.
    assert doubled.losses()[1] == pytest.approx(2 * plain.losses()[1], rel=1e-5)  # type: ignore[attr-defined]
    assert doubled.eval_losses()[8] == pytest.approx(plain.eval_losses()[8], rel=1e-2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("mean", r"mean gives losses of shape \[\] for 7 tokens"),
        ("gone", r"gone \(acme_losses:gone\) cannot be loaded"),
    ],
)
def test_a_registered_loss_that_cannot_work_is_named(installed: Path, name: str, want: str) -> None:
    with pytest.raises(InvalidSpecError, match=f"training.loss.type: {want}"):
        losses(type=name)


def trainer_of(run: Run) -> StageTrainer:
    return assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())[0]


@pytest.mark.parametrize("loss", ["focal", "label-smoothing", "class-weighted"])
def test_the_loss_of_a_step_is_the_mean_over_its_supervised_tokens(tmp_path: Path, loss: str) -> None:
    run = TrainingJob(tmp_path, spec={"training": {"loss": {"type": loss}}}).run()
    trainer = trainer_of(run)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    mask = targets != IGNORED
    counts = supervised_counts(load_rows(run.workspace.train_rows), logits.shape[-1])
    of_tokens = token_loss(Loss(type=loss), lambda: counts)
    want = of_tokens(logits[:, :-1][mask], targets[mask]).mean()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(want.item(), rel=1e-5)


def test_counts_are_those_of_supervised_tokens(tmp_path: Path) -> None:
    rows = load_rows(TrainingJob(tmp_path).workspace.train_rows)
    want = [token for row in rows for token, bit in zip(row["input_ids"], row["completion_mask"], strict=True) if bit]
    counts = supervised_counts(rows, 480)
    assert counts.sum() == len(want)
    assert counts[want[-1]] == want.count(want[-1])
