"""A run that learned nothing, went astray or ran otherwise than planned does not succeed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from finetune_trainer.errors import (
    InvalidSpecError,
    LearnedNothingError,
    NonFiniteLossError,
    NotSupportedError,
    OutputUnwritableError,
    StrategyMismatchError,
)
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly, guards
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.stage_trainer import StageTrainer
from tiny_models import build_tiny_model
from training_job import TrainingJob

pytestmark = pytest.mark.trainer


def test_a_learning_rate_that_explodes_ends_with_the_step_and_saves_nothing_after(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0, training={"learning_rate": 1e30, "checkpoint_every": 1, "warmup_steps": 0})
    with pytest.raises(
        NonFiniteLossError, match=r"became (nan|inf) at step \d+; .*lower training.learningRate"
    ) as caught:
        execute(job.run())
    [step] = [int(word.rstrip(";")) for word in str(caught.value).split() if word.rstrip(";").isdigit()]
    assert all(saved < step for saved in job.checkpoint_steps())
    assert not job.workspace.tuned.exists()


def test_a_poisoned_model_ends_at_the_first_step(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = build_tiny_model("llama", tmp_path / "poisoned")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    job = TrainingJob(tmp_path / "job", eval_rows=0)
    job.workspace.model.unlink()
    job.workspace.model.symlink_to(model)
    with pytest.raises(NonFiniteLossError, match="the loss became nan at step 1; nothing was saved after it"):
        execute(job.run())
    assert job.checkpoint_steps() == []


def test_an_infinite_gradient_stops_before_the_optimizer_spreads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StageTrainer.training_step

    def poisoned(self: StageTrainer, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = step(self, model, *arguments, **options)
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(StageTrainer, "training_step", poisoned)
    job = TrainingJob(tmp_path, eval_rows=0)
    with pytest.raises(NonFiniteLossError, match=r"the gradient norm became (inf|nan) at step 3"):
        execute(job.run())
    assert job.checkpoint_steps() == [2]


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = StageTrainer._save_checkpoint

    def poisoned(self: StageTrainer, *arguments: Any) -> None:
        next(p for p in self.model.parameters() if p.requires_grad).data[0, 0] = float("nan")
        save(self, *arguments)

    monkeypatch.setattr(StageTrainer, "_save_checkpoint", poisoned)
    job = TrainingJob(tmp_path, eval_rows=0)
    with pytest.raises(NonFiniteLossError, match="is not finite after step 2; it was not saved"):
        execute(job.run())
    assert job.checkpoint_steps() == []


@pytest.mark.parametrize(
    ("method", "initialization"),
    [("lora", "default"), ("full", "default"), ("lora", "pissa"), ("qlora", "loftq"), ("adapter", "default")],
)
def test_unchanged_weights_are_no_success(tmp_path: Path, method: str, initialization: str) -> None:
    spec = {"method": {"initialization": initialization, "dropout": 0.05}}
    job = TrainingJob(tmp_path, eval_rows=0, method={"type": method}, training={"learning_rate": 1e-45}, spec=spec)
    with pytest.raises(LearnedNothingError, match=r"unchanged after training: raise training.learningRate"):
        execute(job.run())
    assert not job.workspace.tuned.exists()


def test_an_adapter_with_one_number_that_is_not_finite_is_no_success() -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.data[1, 1] = float("inf")
    with pytest.raises(LearnedNothingError, match="weight is not finite"):
        guards.require_learning(model, Path("nowhere"), {})


def test_a_model_with_nothing_to_train_is_no_success() -> None:
    with pytest.raises(LearnedNothingError, match="no weight was trained"):
        guards.require_learning(torch.nn.Linear(2, 2).requires_grad_(requires_grad=False), Path("nowhere"), {})


def test_rows_without_a_supervised_token_are_refused_before_training(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0, supervised=False)
    with pytest.raises(LearnedNothingError, match="none of the 20 train rows has a token that carries loss"):
        execute(job.run())


@pytest.mark.parametrize(("strategy", "world_size"), [("ddp", 1), ("fsdp", 2), ("none", 2)])
def test_a_plan_for_another_strategy_is_refused(tmp_path: Path, strategy: Any, world_size: int) -> None:
    job = TrainingJob(tmp_path)
    plan = job.plan().model_copy(update={"strategy": strategy, "world_size": world_size})
    job.workspace.plan.write_text(plan.model_dump_json(by_alias=True))
    with pytest.raises(StrategyMismatchError, match=f"strategy {strategy} over {world_size} processes"):
        execute(job.run())


def test_a_process_group_that_was_not_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StrategyMismatchError, match="WORLD_SIZE is 2"):
        execute(TrainingJob(tmp_path).run(environment={"WORLD_SIZE": "2"}))


def test_a_model_that_a_library_wrapped_after_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrap = StageTrainer._wrap_model
    monkeypatch.setattr(
        StageTrainer, "_wrap_model", lambda self, model, **o: torch.nn.DataParallel(wrap(self, model, **o))
    )
    with pytest.raises(StrategyMismatchError, match="with the model as DataParallel"):
        execute(TrainingJob(tmp_path, eval_rows=0).run())


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 929216 vs 929104"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_workspace_names_the_field_and_leaves_earlier_checkpoints_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    save = torch.save

    def full(document: Any, path: Any, *arguments: Any, **options: Any) -> None:
        if "checkpoint-4" in str(path):
            raise error
        save(document, path, *arguments, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OutputUnwritableError, match=r"the workspace is full: .* step 4 .*output.workspace.size \(now 20Gi\)"
    ):
        execute(job.run())
    monkeypatch.undo()
    assert job.checkpoint_steps() == [2]
    assert [*job.workspace.checkpoints.glob(".*")] == []
    assert "went on from the checkpoint of step 2" in execute(job.run(attempt=2)).message


def test_bytes_that_the_volume_changes_are_noticed_before_an_older_checkpoint_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = CheckpointStore._publish

    def lossy(self: CheckpointStore, staged: Path, target: Path) -> None:
        publish(self, staged, target)
        if target.name == "checkpoint-6":
            (target / "optimizer.pt").write_bytes(b"")

    monkeypatch.setattr(CheckpointStore, "_publish", lossy)
    job = TrainingJob(tmp_path, eval_rows=0)
    with pytest.raises(OutputUnwritableError, match=r"optimizer.pt has 0 bytes"):
        execute(job.run())
    assert assembly.checkpoint_store(job.run()).verified(4) is not None


@pytest.mark.parametrize(
    ("extra", "want"),
    [
        ({"learning_rate": 1}, "training.extra.learning_rate: set training.learningRate"),
        ({"adam_beta3": 1}, "adam_beta3 is not a field of the installed TrainingArguments; did you mean adam_beta"),
        (
            {"push_to_hub": True},
            "training.extra.push_to_hub cannot be set; allowed are activation_checkpointing_kwargs",
        ),
        ({"optim_args": 3}, "training.extra.optim_args: .*string.*found 3"),
        ({"torch_compile": True}, "training.extra.torch_compile cannot be set"),
    ],
)
def test_an_extra_field_that_cannot_be_set_is_named(tmp_path: Path, extra: dict[str, Any], want: str) -> None:
    with pytest.raises(InvalidSpecError, match=want):
        execute(TrainingJob(tmp_path, spec={"training": {"extra": extra}}).run())


def test_an_extra_field_reaches_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    create = StageTrainer.create_optimizer

    def spy(self: StageTrainer, *arguments: Any) -> Any:
        seen.append(create(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(StageTrainer, "create_optimizer", spy)
    execute(TrainingJob(tmp_path, eval_rows=0, spec={"training": {"extra": {"adam_beta2": 0.9}}}).run())
    assert seen[0].defaults["betas"] == (0.9, 0.9)


@pytest.mark.parametrize(
    ("job", "error", "want"),
    [
        ({"training": {"precision": "fp16"}}, NotSupportedError, "fp16 needs an accelerator"),
        ({"method": {"target_modules": ["nothing_here"]}}, InvalidSpecError, "method.targetModules"),
        (
            {"eval_rows": 0, "spec": {"training": {"earlyStopping": {"patience": 1}}}},
            InvalidSpecError,
            "earlyStopping needs held-out rows",
        ),
        (
            {"spec": {"training": {"earlyStopping": {"metric": "accuracy"}}}},
            InvalidSpecError,
            "earlyStopping.metric must be one of eval_loss, perplexity",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_field(tmp_path: Path, job: dict[str, Any], error: Any, want: str) -> None:
    with pytest.raises(error, match=want):
        execute(TrainingJob(tmp_path, **job).run())
