"""A run that was interrupted ends as if it had not been; what cannot be trusted is never loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.spec import MethodSpec
from finetune_trainer.errors import InvalidSpecError, PreemptedError
from finetune_trainer.run import Run
from finetune_trainer.stages.train import execute
from finetune_trainer.training.assembly import run_digest
from training_job import RecordedProgress, TrainingJob, crash

pytestmark = pytest.mark.trainer


def uninterrupted(folder: Path, **options: Any) -> tuple[TrainingJob, dict[int, float]]:
    job = TrainingJob(folder, **options)
    run = job.run()
    execute(run)
    return job, run.progress.losses()


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gemma3"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path: Path, family: str) -> None:
    # 20 rows in batches of 4: step 7 is in the middle of the second epoch, and dropout is on.
    whole, want_losses = uninterrupted(tmp_path / "whole", family=family)
    job = TrainingJob(tmp_path / "cut", family=family)
    crash(job, at=7)
    run = job.run(attempt=2)
    result = execute(run)
    losses = run.progress.losses()
    assert "went on from the checkpoint of step 6" in result.message
    assert losses == want_losses
    assert [point.loss for point in result.history] == [*want_losses.values()]
    for name, tensor in whole.adapter().items():
        assert torch.equal(tensor, job.adapter()[name]), name


def test_full_tuning_and_packing_resume_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "method": {"type": "full"},
        "training": {"packing": True, "max_length": 48, "learning_rate": 1e-3},
        "rows": 40,
    }
    _, want_losses = uninterrupted(tmp_path / "whole", **options)
    job = TrainingJob(tmp_path / "cut", **options)
    crash(job, at=3)
    run = job.run(attempt=2)
    execute(run)
    assert run.progress.losses() == want_losses


def test_a_finished_run_is_not_trained_one_more_step(tmp_path: Path) -> None:
    job, want_losses = uninterrupted(tmp_path)
    want_adapter = job.adapter()
    shutil.rmtree(job.workspace.tuned)
    run = job.run(attempt=2)
    result = execute(run)
    assert job.checkpoint_steps()[-1] == 8
    assert run.progress.of("seconds_left") == []
    assert [point.loss for point in result.history] == [*want_losses.values()]
    for name, tensor in want_adapter.items():
        assert torch.equal(tensor, job.adapter()[name])


def truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    file = folder / "optimizer.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def drop_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"step": 6, "files"')


def remove_a_file(folder: Path) -> None:
    (folder / "rng_state.pth").unlink()


def plant_a_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04not ours")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, drop_the_manifest, cut_the_manifest, remove_a_file, plant_a_pickle, empty]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_next_older_one(tmp_path: Path, damage: Any) -> None:
    whole = TrainingJob(tmp_path, eval_rows=0)
    crash(whole, at=7)
    damage(whole.workspace.checkpoints / "checkpoint-6")
    run = whole.run(attempt=2)
    result = execute(run)
    assert "went on from the checkpoint of step 4" in result.message
    assert "refused checkpoint-6:" in result.message
    assert [*run.progress.losses()] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert whole.manifest(6)["attempt"] == 2


def test_without_a_complete_checkpoint_training_starts_over_and_says_so(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    crash(job, at=5)
    for step in job.checkpoint_steps():
        flip_a_bit(job.workspace.checkpoints / f"checkpoint-{step}")
    result = execute(job.run(attempt=2))
    assert "started from the beginning, because no checkpoint is complete" in result.message
    assert "refused checkpoint-4: optimizer.pt has another SHA-256" in result.message


@pytest.mark.parametrize(
    ("change", "value"), [("learning_rate", 0.5), ("total_steps", 12), ("micro_batch_size", 1), ("precision", "bf16")]
)
def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path, change: str, value: Any) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    crash(job, at=3)
    job.replan(**{change: value})
    with pytest.raises(InvalidSpecError, match=r"checkpoint-2 belongs to another plan.*delete .*checkpoints"):
        execute(job.run(attempt=2))


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    crash(job, at=3)
    shutil.rmtree(job.workspace.train_rows)
    job._write_rows(job.workspace.train_rows, 20, seed=3)
    with pytest.raises(InvalidSpecError, match="another plan, setting or data"):
        execute(job.run(attempt=2))


class LaterMethod(MethodSpec):
    """The method as a later version may have it."""

    added: bool = False


@pytest.mark.parametrize(("added", "goes_on"), [(False, True), (True, False)])
def test_a_version_with_more_fields_goes_on_unless_they_are_used(tmp_path: Path, added: bool, goes_on: bool) -> None:
    job = TrainingJob(tmp_path)
    spec = job.parsed_spec()
    later = LaterMethod.model_validate({**spec.method.model_dump(), "added": added})
    run = job.run()
    newer = replace(run, request=run.request.model_copy(update={"spec": spec.model_copy(update={"method": later})}))
    assert (run_digest(newer) == run_digest(run)) is goes_on


def test_a_leftover_attempt_stops_without_writing(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    crash(job, at=5, attempt=2)
    before = {step: job.manifest(step) for step in job.checkpoint_steps()}
    with pytest.raises(PreemptedError, match="attempt 1 is a leftover: attempt 2"):
        execute(job.run(attempt=1))
    assert {step: job.manifest(step) for step in job.checkpoint_steps()} == before
    assert not job.workspace.tuned.exists()


def test_a_writer_that_is_overtaken_aborts_before_its_next_checkpoint(tmp_path: Path) -> None:
    from finetune_trainer import ownership

    job = TrainingJob(tmp_path, eval_rows=0)
    run = job.run(attempt=1)

    class Overtaken(RecordedProgress):
        def update(self, step: int, _total: int, **_values: Any) -> None:
            if step == 3:
                ownership.enter_attempt(job.folder, job.run(attempt=2).request)

    with pytest.raises(PreemptedError, match="leftover"):
        execute(Run(run.request, run.workspace, run.claim_path, Overtaken(), environment={}))
    assert job.checkpoint_steps() == [2]


def test_what_a_dead_attempt_left_half_written_is_swept_away(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, eval_rows=0)
    leftover = job.workspace.checkpoints / ".tmp-2-1" / "checkpoint-2"
    leftover.mkdir(parents=True)
    (leftover / "optimizer.pt").write_bytes(b"half")
    execute(job.run(attempt=2))
    assert [*job.workspace.checkpoints.glob(".*")] == []


def test_the_manifest_names_every_file_and_nothing_of_the_pod(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path)
    execute(job.run())
    manifest = job.manifest(8)
    folder = job.workspace.checkpoints / "checkpoint-8"
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} < {*manifest["files"]}
    assert (manifest["step"], manifest["attempt"], manifest["finished"]) == (8, 1, True)
    assert "training_args.bin" not in manifest["files"]
    assert json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"] is None
    assert (job.workspace.checkpoints / "LATEST").read_text() == "checkpoint-8\n"
