"""What stage train reports while it runs and hands over when it ends, for every supported family."""

import json
from pathlib import Path

import pytest
import torch

from finetune_trainer.stages.train import execute
from training_job import SOURCE, TrainingJob, metrics_of

pytestmark = pytest.mark.trainer
FAMILIES = ("llama", "qwen3", "phi3", "gemma3")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_run_learns_reports_and_leaves_an_adapter(tmp_path: Path, family: str) -> None:
    job = TrainingJob(tmp_path, family, spec={"training": {"loadBest": False}})
    run = job.run()
    result = execute(run)
    losses = run.progress.losses()
    assert [*losses] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert losses[8] < losses[1] - 0.1
    assert [*run.progress.eval_losses()] == [4, 8]
    assert result.outcome == "Succeeded"
    assert metrics_of(result).loss == losses[8]
    assert [point.step for point in result.history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert result.history[7].eval_loss == run.progress.eval_losses()[8]
    assert all(torch.isfinite(tensor).all() for tensor in job.adapter().values())


def test_every_measurement_is_reported_at_every_log(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, training={"log_every": 2, "eval_every": 8})
    run = job.run()
    execute(run)
    logged = [update for update in run.progress.updates if update.get("metrics") is not None]
    assert [update["step"] for update in logged] == [2, 4, 6, 8, 8]
    for update in logged:
        metrics = update["metrics"]
        assert metrics.loss > 0
        assert metrics.grad_norm > 0
        assert metrics.learning_rate >= 0
        assert metrics.tokens_per_second > 0
        assert metrics.peak_memory_bytes > 2**20
    assert logged[-1]["metrics"].eval_loss > 0


def test_the_step_and_the_time_left_are_reported_after_every_step(tmp_path: Path) -> None:
    run = TrainingJob(tmp_path, training={"log_every": 8}, eval_rows=0).run()
    execute(run)
    timed = [
        (update["step"], update["seconds_left"])
        for update in run.progress.updates
        if update.get("seconds_left") is not None
    ]
    assert [step for step, _ in timed] == [*range(1, 9)]
    assert timed[-1][1] == 0
    assert run.progress.updates[-1]["total_steps"] == 8
    assert run.progress.of("epoch")[-1] == pytest.approx(8 * 4 / 20)


def test_tokens_per_second_counts_real_tokens_and_no_padding(tmp_path: Path) -> None:
    from datasets import load_from_disk

    job = TrainingJob(tmp_path, rows=4, eval_rows=0, training={"total_steps": 3, "log_every": 3})
    run = job.run()
    from finetune_trainer.training import callbacks

    counted = []
    original = callbacks.ProgressReporter._tokens_per_second

    def spy(self: callbacks.ProgressReporter) -> float | None:
        assert self.trainer is not None
        counted.append(self.trainer.real_tokens)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.ProgressReporter, "_tokens_per_second", spy)
        execute(run)
    rows = load_from_disk(str(job.workspace.train_rows))
    assert counted == [3 * sum(len(ids) for ids in rows["input_ids"])]


def test_the_measured_peak_goes_into_metrics_and_plan(tmp_path: Path) -> None:
    result = execute(TrainingJob(tmp_path, eval_rows=0).run())
    assert result.plan is not None
    peak = result.plan.memory.measured_peak_bytes
    assert peak is not None
    assert peak == metrics_of(result).peak_memory_bytes
    assert peak > 2**20
    assert result.plan.memory.estimated_bytes == 6


def test_the_adapter_names_the_model_by_its_id_and_no_path_of_the_pod(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, spec={"model": {"source": SOURCE, "chatTemplate": "{{ messages }}!"}})
    execute(job.run())
    config = json.loads((job.workspace.tuned / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "acme/tiny-instruct"
    assert config["revision"] == "0" * 40
    assert (job.workspace.tuned / "chat_template.jinja").read_text() == "{{ messages }}!"
    for file in job.workspace.tuned.rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file.name
    assert {file.suffix for file in job.workspace.tuned.iterdir()} == {".json", ".jinja", ".safetensors"}


def test_full_tuning_leaves_a_whole_model_that_loads(tmp_path: Path) -> None:
    from finetune_trainer.models.load import load_model, load_tuned

    job = TrainingJob(tmp_path, method={"type": "full", "rank": None, "alpha": None}, training={"learning_rate": 1e-3})
    run = job.run()
    result = execute(run)
    assert metrics_of(result).eval_loss < 6.2
    tuned, base = load_tuned(run), load_model(job.workspace.model, "fp32", "sdpa")
    assert any(not torch.equal(a, b) for a, b in zip(tuned.parameters(), base.parameters(), strict=True))
    assert not (job.workspace.tuned / "adapter_config.json").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_bf16_on_cpu_learns_like_fp32(tmp_path: Path, method: str) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        job = TrainingJob(
            tmp_path / precision,
            method={"type": method},
            training={"precision": precision, "learning_rate": 0.01 if method == "lora" else 1e-3},
            spec={"method": {"dropout": 0.0}},
        )
        run = job.run()
        execute(run)
        losses[precision] = run.progress.losses()
    assert losses["bf16"][8] == pytest.approx(losses["fp32"][8], abs=0.05)
    assert losses["bf16"][8] < losses["bf16"][1] - 0.1


def test_tensorboard_files_lie_in_the_workspace(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0, spec={"reporting": {"tensorboard": True}})
    execute(job.run())
    assert [*job.workspace.tensorboard.rglob("events.out.tfevents.*")]


def test_gradient_checkpointing_changes_memory_and_not_one_loss(tmp_path: Path) -> None:
    losses = []
    for on in (False, True):
        run = TrainingJob(tmp_path / str(on), training={"gradient_checkpointing": on}, eval_rows=0).run()
        execute(run)
        losses.append([*run.progress.losses().values()])
    assert losses[0] == losses[1]
