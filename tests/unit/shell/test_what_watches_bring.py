"""kopf's part: events are stored and passed on, lists are compared, and nothing can be written on an object."""

import itertools
from typing import Any

import pytest

from finetune_operator.shell.errors import UnavailableError
from finetune_operator.shell.kinds import FINE_TUNE_JOB, JOB, POD, WATCHED
from finetune_operator.shell.resync import Resync
from finetune_operator.shell.signs_of_life import SignsOfLife
from finetune_operator.shell.store import Store
from finetune_operator.shell.watches import LONGEST_BACKOFF, Watches, kopf_settings
from unit.shell.in_memory_cluster import InMemoryCluster
from unit.shell.objects import child_manifest, make_child, make_job


class Desk:
    """Watches and comparisons that fill one store."""

    def __init__(self) -> None:
        self.cluster = InMemoryCluster()
        self.store = Store()
        self.changed: list[str] = []
        signs = SignsOfLife({}, lambda _path: None, lambda: 0.0)
        self.watches = Watches(self.store, self.changed.append, signs)
        self.resync = Resync(self.store, self.cluster, (None,), 300.0, self.changed.append)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_event_about_a_child_concerns_its_job(desk: Desk) -> None:
    job = make_job()
    desk.watches.take("ADDED", make_child(job, "Pod", "p1"))
    desk.watches.take(None, job)
    assert desk.changed == ["u1", "u1"]
    assert len(desk.store.children(job, POD)) == 1


def test_an_event_that_says_nothing_new_concerns_nobody(desk: Desk) -> None:
    desk.store.put(make_job(version=5))
    for version in (3, 5):
        desk.watches.take("MODIFIED", make_job(version=version))
    assert desk.changed == []


def test_an_object_without_a_job_concerns_nobody(desk: Desk) -> None:
    stranger = make_child(make_job())
    del stranger["metadata"]["labels"]
    desk.watches.take("ADDED", stranger)
    assert desk.changed == []


def test_a_deletion_concerns_the_job_also_when_the_object_was_never_seen(desk: Desk) -> None:
    desk.watches.take("DELETED", make_child(make_job()))
    assert desk.changed == ["u1"]


async def test_a_comparison_finds_what_the_watches_missed(desk: Desk) -> None:
    missed = desk.cluster.seed(make_job("missed"))
    desk.cluster.seed(child_manifest(missed))
    desk.store.put(make_job("ghost"))
    await desk.resync.once()
    assert sorted(set(desk.changed)) == ["ghost", "missed"]
    assert desk.store.job("ghost") is None
    assert len(desk.store.children(missed, JOB)) == 1


async def test_a_comparison_without_an_answer_changes_nothing(desk: Desk) -> None:
    desk.store.put(make_job("known"))
    desk.cluster.fail("list FineTuneJob", UnavailableError("no answer"))
    with pytest.raises(UnavailableError):
        await desk.resync.once()
    assert desk.store.job("known") is not None


async def test_only_children_with_a_job_are_listed(desk: Desk) -> None:
    labelled = child_manifest(make_job())
    unlabelled = child_manifest(make_job(), name="stranger")
    del unlabelled["metadata"]["labels"]
    desk.cluster.seed(labelled)
    desk.cluster.seed(unlabelled)
    await desk.resync.once()
    assert desk.changed == ["u1"]


def test_kopf_has_no_reason_to_write_on_an_object() -> None:
    settings = kopf_settings()
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert settings.scanning.disabled is True
    storage: Any = settings.persistence.diffbase_storage
    with pytest.raises(AssertionError):
        storage.store(body=None, patch=None, essence=None)


def test_kopf_has_event_handlers_only(desk: Desk) -> None:
    registry = desk.watches.registry
    assert len(registry._watching.get_all_handlers()) == len(WATCHED)
    for others in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
        assert list(others.get_all_handlers()) == []


def test_watches_never_stop_trying_and_wait_at_most_half_a_minute() -> None:
    backoffs: Any = kopf_settings().networking.error_backoffs
    delays = list(itertools.islice(backoffs, 1000))
    assert len(delays) == 1000
    assert max(delays) <= LONGEST_BACKOFF
    assert delays[0] <= 0.5
    assert not hasattr(backoffs, "__len__"), "kopf would count the attempts"


def test_a_silent_watch_is_noticed_before_the_operator_is_called_dead() -> None:
    watching = kopf_settings().watching
    assert watching.inactivity_timeout < 150
    assert watching.server_timeout is not None
    assert watching.client_timeout is not None
    assert watching.server_timeout < watching.client_timeout


def test_only_jobs_and_pods_of_ours_are_watched() -> None:
    selectors = {str(k): v for k, v in kopf_settings().watching.label_selectors.items()}
    assert set(selectors.values()) == {"slmops.dev/job-uid"}
    assert len(selectors) == 2
    assert FINE_TUNE_JOB.plural not in " ".join(selectors)
