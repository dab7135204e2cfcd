"""The store keeps the newest version of what exists, whatever the order of events, and nothing of what is gone."""

import gc
from dataclasses import fields
from typing import Any

import pytest

from finetune_operator.shell.cluster import Listing
from finetune_operator.shell.kinds import CLAIM, FINE_TUNE_JOB, JOB, POD, WORKLOAD
from finetune_operator.shell.packed import packed, version_of
from finetune_operator.shell.store import Store
from unit.shell.objects import make_child, make_job, make_workload


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize(
    ("versions", "want_version"),
    [((1, 2), 2), ((2, 1), 2), ((9, 10), 10), ((10, 9), 10), ((3, 3), 3)],
)
def test_the_newest_version_is_kept_and_versions_are_numbers(
    store: Store, versions: tuple[int, int], want_version: int
) -> None:
    news = [store.put(make_job(version=version, message=f"version {version}")) for version in versions]
    job = store.job("u1")
    assert job is not None
    assert version_of(job) == want_version
    assert news == [True, versions[1] > versions[0]]


def test_a_newer_version_that_says_the_same_is_kept_and_is_no_news(store: Store) -> None:
    store.put(make_job(version=1))
    noted = make_job(version=2)
    noted["metadata"]["managedFields"] = [{"manager": "somebody"}]
    assert store.put(noted) is False
    job = store.job("u1")
    assert job is not None
    assert version_of(job) == 2
    assert store.put(make_job(version=3, phase="Preparing")) is True


def test_a_late_event_does_not_bring_a_deleted_object_back(store: Store) -> None:
    store.put(make_job(version=5))
    store.remove("FineTuneJob", "u1")
    assert store.put(make_job(version=4)) is False
    assert store.put(make_job(version=6)) is False
    assert store.job("u1") is None


def test_a_deletion_that_arrives_before_the_creation_wins(store: Store) -> None:
    store.remove("FineTuneJob", "u1")
    assert store.put(make_job()) is False


def test_deletions_are_forgotten_after_two_comparisons(store: Store) -> None:
    store.remove("FineTuneJob", "u1")
    store.age()
    assert store.put(make_job()) is False
    store.age()
    assert store.put(make_job()) is True


def _ended_pod(phase: str, version: int = 1) -> dict[str, Any]:
    return {**make_child(make_job(), "Pod", "pod-1", version), "status": {"phase": phase}}


@pytest.mark.parametrize(("phase", "want"), [("Failed", ["Failed"]), ("Succeeded", ["Succeeded"]), ("Running", [])])
def test_an_ended_pod_can_be_read_for_a_while_after_it_is_gone(store: Store, phase: str, want: list[str]) -> None:
    job = make_job()
    store.put(_ended_pod("Running"))
    store.remove("Pod", "pod-1", _ended_pod(phase, version=2))
    assert [pod["status"]["phase"] for pod in store.children(job, POD)] == want
    store.sync_children(job, POD, Listing([], 10))
    store.age()
    assert [pod["status"]["phase"] for pod in store.children(job, POD)] == want
    store.age()
    assert store.children(job, POD) == ()


def test_a_pod_that_a_list_has_not_any_more_is_remembered_as_it_was(store: Store) -> None:
    store.put(_ended_pod("Failed"))
    store.sync_children(make_job(), POD, Listing([], 10))
    assert [pod["status"]["phase"] for pod in store.children(make_job(), POD)] == ["Failed"]


def test_what_is_not_in_a_live_list_is_gone(store: Store) -> None:
    store.put(make_job("gone", version=3))
    store.put(make_job("stays", version=3))
    changed = store.sync(FINE_TUNE_JOB, None, Listing([packed(make_job("stays", version=3))], 10))
    assert changed == {"gone"}
    assert store.job("gone") is None
    assert store.job("stays") is not None


def test_an_object_newer_than_the_list_is_not_taken_for_gone(store: Store) -> None:
    store.put(make_job(version=11))
    assert store.sync(FINE_TUNE_JOB, None, Listing([], 10)) == set()
    assert store.job("u1") is not None


def test_a_list_of_one_namespace_says_nothing_about_another(store: Store) -> None:
    store.put(make_job("here", namespace="a"))
    store.put(make_job("there", namespace="b"))
    assert store.sync(FINE_TUNE_JOB, "a", Listing([], 10)) == {"here"}
    assert store.job("there") is not None


def test_a_list_finds_changes_that_the_watch_missed(store: Store) -> None:
    job = make_job()
    store.put(make_child(job, version=1))
    suspended = {**make_child(job, version=2), "spec": {"suspend": True}}
    assert store.sync(JOB, None, Listing([packed(suspended)], 10)) == {"u1"}


def test_children_are_known_before_their_job(store: Store) -> None:
    job = make_job()
    store.put(make_child(job, "Pod", "p1"))
    store.put(job)
    assert [c["metadata"]["uid"] for c in store.children(job, POD)] == ["p1"]
    assert store.children(job, JOB) == ()


def test_an_object_of_another_namespace_cannot_pose_as_a_child(store: Store) -> None:
    job = make_job(namespace="team")
    stranger = make_child(make_job(namespace="attacker"))
    store.put(stranger)
    assert store.children(job, JOB) == ()


def test_a_child_that_changes_its_label_changes_its_job(store: Store) -> None:
    first, second = make_job("u1"), make_job("u2")
    store.put(make_child(first, version=1))
    store.put(make_child(second, version=2))
    assert store.children(first, JOB) == ()
    assert len(store.children(second, JOB)) == 1


def test_managed_fields_are_not_kept(store: Store) -> None:
    job = make_job()
    job["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.put(job)
    stored = store.job("u1")
    assert stored is not None
    assert "managedFields" not in stored["metadata"]
    assert "managedFields" in job["metadata"]


def test_nothing_is_left_of_a_job_that_was_deleted_with_its_children(store: Store) -> None:
    job = make_job()
    store.put(job)
    for kind in ("Job", "Pod", "PersistentVolumeClaim"):
        store.put(make_child(job, kind, uid=kind))
    store.remove("FineTuneJob", "u1")
    assert store.children(job, CLAIM) == ()
    store.remove("Job", "Job")
    store.remove("Pod", "Pod")
    store.age()
    store.age()
    assert store._children == {}
    assert not any(store._objects.values())
    assert not store._gone | store._gone_before


def test_a_workload_is_found_by_its_job_in_whatever_order_both_arrive(store: Store) -> None:
    job = make_job()
    child = make_child(job)
    workload = make_workload(child)
    store.put(workload)
    assert store.job_uid_of(workload) == "", "whose Job it is nobody knows yet"
    store.put(child)
    assert store.job_uid_of(workload) == "u1"
    (found,) = store.workloads([child])
    assert found["metadata"]["uid"] == "w1"
    store.remove("Workload", "w1")
    assert store.workloads([child]) == ()


def test_of_a_pod_only_what_is_read_is_kept(store: Store) -> None:
    job = make_job()
    pod = make_child(job, "Pod")
    pod["metadata"]["annotations"] = {"request": "long"}
    pod["spec"] = {"containers": [{"name": "trainer", "image": "long", "resources": {}}], "volumes": ["long"]}
    pod["status"] = {"phase": "Running", "hostIP": "10.0.0.1"}
    store.put(pod)
    (kept,) = store.children(job, POD)
    assert "long" not in str(kept)
    assert kept["status"] == {"phase": "Running"}


def test_what_is_kept_is_nothing_that_a_garbage_collection_walks(store: Store) -> None:
    store.put(make_job())
    (kept,) = store._objects["FineTuneJob"].values()
    assert not any(gc.is_tracked(getattr(kept, field.name)) for field in fields(kept) if field.name != "owners")


def test_what_was_taken_out_can_be_changed_without_harm(store: Store) -> None:
    store.put(make_job(phase="Preparing"))
    for _ in range(2):
        job = store.job("u1")
        assert job is not None
        assert job["status"]["phase"] == "Preparing"
        job["status"]["phase"] = "Training"
    assert [*store.phases()] == ["Preparing"]


def test_of_a_workload_only_what_is_read_is_kept(store: Store) -> None:
    child = make_child(make_job())
    store.put(make_workload(child, active=False))
    (kept,) = store.workloads([child])
    assert kept["spec"] == {"active": False}
    assert set(kept["status"]) == {"conditions"}


def test_a_workload_that_vanished_is_news_for_its_job(store: Store) -> None:
    child = make_child(make_job())
    store.put(child)
    store.put(make_workload(child))
    assert store.sync(WORKLOAD, None, Listing([], 10)) == {"u1"}
