"""A short selection of every fault campaign; `make faults` runs them all."""

import pytest

from faults.runner import Result

pytestmark = pytest.mark.apiserver

SELECTION = (
    "kill/before/success/2",
    "kill/after/success/6",
    "kill/after/suspend-and-resume/12",
    "kill/before/crash-then-success/11",
    "kill/after/out-of-memory/9",
    "kill/after/deleted-while-training/6",
    "kill/before/deadline-exceeded/10",
    "kill/after/expired/8",
    "answer/create-jobs/503/once",
    "answer/create-jobs/twice/five-times",
    "answer/create-persistentvolumeclaims/late/once",
    "answer/update-finetunejobs-status/429/long",
    "answer/list-pods/500/five-times",
    "answer/watch-jobs/closed/five-times",
    "answer/watch-pods/401/five-times",
    "answer/watch-jobs/empty/long",
    "answer/update-leases/silent/once",
    "user/delete/training",
    "user/recreate/preparing",
    "user/suspend-and-resume/evaluating",
    "user/evict-pods/training",
    "watch/replayed/jobs/crash-then-success",
    "watch/swapped/pods/suspend-and-resume",
    "watch/error-410/pods/success",
    "watch/gap-job-deleted/train",
    "replicas/frozen/7",
    "control-plane/kube-apiserver/killed/train",
)


@pytest.mark.parametrize("case_id", SELECTION)
def test_a_disturbed_run_ends_as_the_fault_free_one(results: dict[str, Result], case_id: str) -> None:
    assert not results[case_id].problems, f"replay with: make faults FAULTS='{case_id}'"
