import threading
from pathlib import Path

import pytest

from finetune_api.status import Stage
from finetune_trainer.errors import PreemptedError
from finetune_trainer.ownership import confirm_attempt, enter_attempt, job_folder
from trainer_requests import make_request


def test_an_empty_claim_is_used_at_its_root(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert job_folder(tmp_path, "a") == tmp_path
    assert job_folder(tmp_path, "a") == tmp_path


def test_a_second_job_on_a_claim_works_in_a_folder_of_its_own(tmp_path: Path) -> None:
    job_folder(tmp_path, "a")
    (tmp_path / "checkpoints").mkdir()
    want = tmp_path / "job-b"
    assert job_folder(tmp_path, "b") == want
    assert job_folder(tmp_path, "b") == want
    assert job_folder(tmp_path, "a") == tmp_path


def test_a_claim_with_files_of_a_person_is_not_used_at_its_root(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert job_folder(tmp_path, "a") == tmp_path / "job-a"


def test_a_mark_that_was_cut_by_a_crash_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "owner.json").write_text("")
    assert job_folder(tmp_path, "a") == tmp_path / "job-a"


def test_two_jobs_that_start_at_once_get_two_folders(tmp_path: Path) -> None:
    found: dict[str, Path] = {}

    def start(uid: str) -> None:
        barrier.wait()
        found[uid] = job_folder(tmp_path, uid)

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=start, args=(f"uid-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found.values())) == 8


def test_a_leftover_attempt_stops(tmp_path: Path) -> None:
    enter_attempt(tmp_path, make_request(Stage.TRAIN, attempt=2))
    with pytest.raises(PreemptedError, match="attempt 1 at stage train is a leftover: attempt 2 has started"):
        enter_attempt(tmp_path, make_request(Stage.TRAIN, attempt=1))


def test_an_attempt_that_is_overtaken_stops_before_it_commits(tmp_path: Path) -> None:
    first = make_request(Stage.TRAIN, attempt=1)
    enter_attempt(tmp_path, first)
    confirm_attempt(tmp_path, first)
    enter_attempt(tmp_path, make_request(Stage.TRAIN, attempt=2))
    with pytest.raises(PreemptedError, match="leftover"):
        confirm_attempt(tmp_path, first)


def test_the_same_attempt_may_start_again(tmp_path: Path) -> None:
    enter_attempt(tmp_path, make_request(Stage.TRAIN, attempt=2))
    enter_attempt(tmp_path, make_request(Stage.TRAIN, attempt=2))


def test_stages_count_their_attempts_apart(tmp_path: Path) -> None:
    enter_attempt(tmp_path, make_request(Stage.PREPARE, attempt=5))
    enter_attempt(tmp_path, make_request(Stage.TRAIN, attempt=1))
