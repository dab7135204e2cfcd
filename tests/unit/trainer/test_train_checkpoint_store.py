"""The protocol of checkpoints on plain files: written aside, verified, published, pruned, fenced."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.errors import InvalidSpecError, PreemptedError
from finetune_trainer.training.checkpoints import MANIFEST, CheckpointStore, digest_of, seal, verify


def store(root: Path, attempt: int = 1, keep: int = 2, digest: str = "sha256:a") -> CheckpointStore:
    return CheckpointStore(root=root, attempt=attempt, digest=digest, keep=keep)


def save(checkpoints: CheckpointStore, step: int, text: str = "weights", protect: tuple[int, ...] = ()) -> None:
    folder = checkpoints.staging(step) / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_text(text)
    (folder / "inner" / "state").write_text(str(step))
    checkpoints.commit(step, finished=False, protect=protect)


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    (checkpoints.staging(1) / "checkpoint-1").mkdir()
    assert checkpoints.steps() == []
    assert checkpoints.newest() is None


def test_a_committed_checkpoint_is_found_with_its_manifest(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, attempt=3)
    save(checkpoints, 5)
    found = checkpoints.newest()
    assert found is not None
    assert (found.manifest.step, found.manifest.attempt) == (5, 3)
    assert {*found.manifest.files} == {"weights", "inner/state"}
    assert (found.report.step, found.report.verified) == (5, True)
    assert (tmp_path / "LATEST").read_text() == "checkpoint-5\n"
    assert [*tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    ("damage", "want"),
    [
        (lambda f: (f / "weights").write_text("weight5"), "weights has another SHA-256"),
        (lambda f: (f / "weights").write_text("weigh"), "weights has 5 bytes in place of 7"),
        (lambda f: (f / "weights").unlink(), "files differ from manifest.json: weights"),
        (lambda f: (f / "planted.bin").write_text("x"), "files differ from manifest.json: planted.bin"),
        (lambda f: (f / MANIFEST).unlink(), "no manifest.json: it was never completed"),
        (lambda f: (f / MANIFEST).write_text("{}"), "manifest.json cannot be read"),
        (lambda f: (f / MANIFEST).write_bytes(b"\x00" * 9), "manifest.json cannot be read"),
        (
            lambda f: ((f / "weights").rename(f.parent / "w"), (f / "weights").symlink_to(f.parent / "w")),
            "symbolic link",
        ),
        (lambda f: f.rename(f.with_name("checkpoint-9")), "manifest.json is of step 5"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, damage: Callable[[Path], object], want: str) -> None:
    checkpoints = store(tmp_path)
    save(checkpoints, 5)
    damage(checkpoints.path(5))
    assert checkpoints.newest() is None
    assert want in checkpoints.refused[0]


def test_the_next_older_checkpoint_is_taken_when_the_newest_is_damaged(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for step in (5, 10):
        save(checkpoints, step)
    (checkpoints.path(10) / "weights").write_text("")
    found = checkpoints.newest()
    assert found is not None
    assert found.manifest.step == 5


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep=9)
    for step in (9, 100, 20):
        save(checkpoints, step)
    found = checkpoints.newest()
    assert found is not None
    assert found.manifest.step == 100


def test_only_the_newest_and_the_protected_are_kept(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for step in (1, 2, 3, 4, 5):
        save(checkpoints, step, protect=(2,) if step > 1 else ())
    assert sorted(checkpoints.steps()) == [2, 4, 5]


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for step in (1, 2):
        save(checkpoints, step)
    (checkpoints.path(2) / "weights").unlink()
    save(checkpoints, 3)
    assert sorted(checkpoints.steps()) == [1, 3]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(store(tmp_path), 5)
    (tmp_path / "checkpoint-5" / "weights").write_text("damaged")
    second = store(tmp_path, attempt=2)
    save(second, 5, text="again")
    assert (tmp_path / "checkpoint-5" / "weights").read_text() == "again"
    assert [*tmp_path.glob(".*")] == []


def test_a_lower_attempt_neither_reads_nor_writes(tmp_path: Path) -> None:
    save(store(tmp_path, attempt=2), 5)
    leftover = store(tmp_path, attempt=1)
    with pytest.raises(PreemptedError, match="attempt 1 is a leftover: attempt 2"):
        leftover.newest()
    with pytest.raises(PreemptedError, match="attempt 1 is a leftover"):
        save(leftover, 9)
    assert leftover.steps() == [5]


def test_the_fence_is_asked_right_before_the_rename(tmp_path: Path) -> None:
    def overtaken() -> None:
        raise PreemptedError("overtaken")

    checkpoints = CheckpointStore(tmp_path, 1, "sha256:a", 2, confirm=overtaken)
    with pytest.raises(PreemptedError, match="overtaken"):
        save(checkpoints, 1)
    assert checkpoints.steps() == []


def test_a_checkpoint_of_another_plan_is_refused_with_a_way_out(tmp_path: Path) -> None:
    save(store(tmp_path), 5)
    with pytest.raises(InvalidSpecError, match=r"checkpoint-5 belongs to another plan.*create a new FineTuneJob"):
        store(tmp_path, digest="sha256:b").newest()


def test_sweeping_leaves_complete_checkpoints_and_foreign_files_alone(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    save(checkpoints, 5)
    checkpoints.staging(7)
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.sweep()
    assert {entry.name for entry in tmp_path.iterdir()} == {"checkpoint-5", "LATEST", "notes.txt"}


def test_a_sealed_folder_verifies_and_its_manifest_is_plain_json(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    seal(tmp_path, step=1, attempt=1, digest="d", finished=True)
    assert verify(tmp_path, 1).finished
    assert json.loads((tmp_path / MANIFEST).read_text())["files"]["a"]["size"] == 1


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
