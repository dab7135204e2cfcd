"""Failures that other training operators had; each test names the issue that tells of it.

Rows that concern checkpoints are tested with the trainer, in tests/trainer:

- huggingface/transformers#35782, PR#35580: a resume picked the newest directory, which was half written.
  test_train_resume.py::test_a_damaged_checkpoint_is_passed_over_for_the_next_older_one and
  test_what_a_dead_attempt_left_half_written_is_swept_away
- KempnerInstitute/KempnerForge#102, pytorch/torchtitan#930, pytorch/pytorch#144657: a checkpoint was published before
  it was durable. test_train_preemption.py::test_sigterm_while_saving_leaves_with_that_checkpoint
- the fencing of kubernetes/kubernetes#115844: test_train_resume.py::
  test_a_writer_that_is_overtaken_aborts_before_its_next_checkpoint

dask/dask-kubernetes#620 (dead while /healthz answers): tests/unit/shell/test_the_operator_knows_when_it_is_stuck.py,
and, that an operator without watches ends, tests/apiserver/test_watches_that_lie.py.
"""

import pytest

from faults.runner import Result

pytestmark = pytest.mark.apiserver

Results = dict[str, Result]


def assert_passed(results: Results, case_id: str) -> None:
    assert not results[case_id].problems, f"replay with: make faults FAULTS='{case_id}'"


@pytest.mark.parametrize("case_id", ["user/delete-every-job/succeeded", "user/delete-every-job/failed"])
def test_the_children_of_an_ended_job_are_never_made_again(results: Results, case_id: str) -> None:
    """kubeflow/trainer#2981, #3737, #3779: a deleted child was made again, and the training repeated for ever."""
    assert_passed(results, case_id)


@pytest.mark.parametrize(
    "case_id",
    ["known/every-write-meets-a-429/success", "known/every-write-meets-a-429/deleted-while-training"],
)
def test_an_api_server_that_asks_for_patience_delays_a_job_and_no_more(results: Results, case_id: str) -> None:
    """dask/dask-kubernetes#975: after one 429 the status was never written, and 690 retries found nothing."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["known/every-create-of-a-child-fails/success"])
def test_a_missing_child_is_always_created(results: Results, case_id: str) -> None:
    """dask/dask-kubernetes#976, #968: a handler was dropped, and its child never created."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["watch/held/finetunejobs/success", "watch/silent/finetunejobs/crash-then-success"])
def test_children_that_are_seen_before_their_owner_are_no_orphans(results: Results, case_id: str) -> None:
    """kubernetes-sigs/kueue#10901: the owner was not in its cache yet, so the child was taken for finished."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["known/conflicts-in-a-row/success"])
def test_a_conflict_is_followed_by_a_look_at_the_live_object(results: Results, case_id: str) -> None:
    """kubernetes-sigs/kueue#8258: the same old resourceVersion was sent for ever."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["known/suspended-and-resumed-ten-times"])
def test_nobody_can_make_the_operator_write_without_end(results: Results, case_id: str) -> None:
    """kubernetes-sigs/kueue#13830: an eviction led to thousands of creates and deletes in minutes."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["watch/gap-child-deleted/train", "user/delete-current-job/training"])
def test_two_pods_of_one_stage_are_never_live_together(results: Results, case_id: str) -> None:
    """kubernetes/kubernetes#115844, #120790, #130683: two pods of one index ran at the same time."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["known/status-of-the-job-is-stale"])
def test_a_job_whose_status_is_stale_does_not_outlive_its_deadline(results: Results, case_id: str) -> None:
    """kubernetes/kubernetes#125410, PR#139751: the status of a Job was stuck, and whoever waited for it as well."""
    assert_passed(results, case_id)


@pytest.mark.parametrize("case_id", ["watch/silent/pods/success", "watch/silent/jobs/crash-then-success"])
def test_a_silent_watch_holds_nobody_up(results: Results, case_id: str) -> None:
    """strimzi/strimzi-kafka-operator#8528: informers were stuck, and pods never made again."""
    assert_passed(results, case_id)
