"""One reconciliation: gather, plan, confirm where asked, and status, create, patch, delete, events in this order."""

import asyncio
from collections.abc import Callable

import pytest

from finetune_api.contract import ProgressReport
from finetune_operator.core.actions import Deletion, Event, Patch, Plan, ProgressTarget
from finetune_operator.core.observed import Observed, Refusal
from finetune_operator.shell.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    NotLeaderError,
    UnavailableError,
)
from finetune_operator.shell.kinds import JOB
from finetune_operator.shell.reconciler import LOOK_AGAIN_SECONDS, CreateRefusedError, Reconciler
from finetune_operator.shell.store import Store
from unit.shell.in_memory_cluster import InMemoryCluster
from unit.shell.objects import Object, child_manifest, make_job


class FollowedPods:
    """Remembers which pod is followed."""

    def __init__(self) -> None:
        self.targets: dict[str, ProgressTarget | None] = {}

    def follow(self, job: Object, target: ProgressTarget | None) -> None:
        self.targets[job["metadata"]["uid"]] = target

    def forget(self, uid: str) -> None:
        self.targets.pop(uid, None)

    def report(self, uid: str) -> ProgressReport | None:  # noqa: ARG002 - the protocol's signature
        return None


class Bench:
    """A reconciler whose plans the test writes."""

    def __init__(self) -> None:
        self.cluster = InMemoryCluster()
        self.store = Store()
        self.progress = FollowedPods()
        self.observed: list[Observed] = []
        self.decide: Callable[[Observed], Plan] = lambda _: Plan()
        self.reconciler = Reconciler(self.store, self.cluster, self._plan, self.progress)
        self.job = self.cluster.seed(make_job())
        self.store.put(self.job)

    def _plan(self, observed: Observed) -> Plan:
        self.observed.append(observed)
        return self.decide(observed)

    async def reconcile(self, plan: Plan | None = None) -> float | None:
        if plan is not None:
            self.decide = lambda _: plan
        return await self.reconciler.reconcile("u1")

    @property
    def stored(self) -> Object:
        job = self.store.job("u1")
        assert job is not None
        return job


@pytest.fixture
def bench() -> Bench:
    return Bench()


STATUS = {"phase": "Preparing"}
EVENT = Event("Normal", "Prepared", "done")


async def test_children_are_created_together_and_the_last_one_after_them(bench: Bench) -> None:
    waiting = [child_manifest(bench.job, kind, "a") for kind in ("PersistentVolumeClaim", "NetworkPolicy")]
    together = asyncio.Barrier(len(waiting))

    async def in_flight(kind: str) -> None:
        if kind == "Job":
            assert not together.n_waiting
            assert {kind for kind, *_ in bench.cluster.objects} > {"PersistentVolumeClaim", "NetworkPolicy"}
        else:
            await asyncio.wait_for(together.wait(), 5)

    bench.cluster.in_flight = in_flight
    await bench.reconcile(Plan(create=(*waiting, child_manifest(bench.job, "Job", "a"))))
    assert len(bench.store.children(bench.job, JOB)) == 1


async def test_the_last_child_is_not_created_when_an_earlier_one_was_refused(bench: Bench) -> None:
    refusal = ForbiddenError("exceeded quota", code=403, reason="Forbidden")
    bench.cluster.fail("create PersistentVolumeClaim", refusal)
    children = [child_manifest(bench.job, kind, "a") for kind in ("PersistentVolumeClaim", "NetworkPolicy", "Job")]
    with pytest.raises(CreateRefusedError, match="PersistentVolumeClaim"):
        await bench.reconcile(Plan(create=tuple(children)))
    assert bench.cluster.writes == ["create PersistentVolumeClaim", "create NetworkPolicy"]


async def test_writes_happen_in_their_order_and_the_status_first(bench: Bench) -> None:
    old = bench.cluster.seed(child_manifest(bench.job, "Job", "old"))
    plan = Plan(
        status=STATUS,
        create=(child_manifest(bench.job, "PersistentVolumeClaim", "w"), child_manifest(bench.job, "Job", "new")),
        patch=(Patch("Job", "old", old["metadata"]["uid"], {"spec": {"suspend": True}}),),
        delete=(Deletion("batch/v1", "Job", "team", "old", old["metadata"]["uid"]),),
        events=(EVENT,),
        requeue_after=12.0,
    )
    assert await bench.reconcile(plan) == 12.0
    assert bench.cluster.calls == [
        "update FineTuneJob/status",
        "create PersistentVolumeClaim",
        "create Job",
        "patch Job",
        "delete Job",
        "create Event",
    ]


async def test_nothing_is_asked_and_written_when_there_is_nothing_to_do(bench: Bench) -> None:
    assert await bench.reconcile(Plan(reason="converged")) is None
    assert bench.cluster.calls == []


async def test_own_writes_are_known_at_once(bench: Bench) -> None:
    await bench.reconcile(Plan(status=STATUS, create=(child_manifest(bench.job),)))
    await bench.reconcile(Plan())
    assert bench.observed[-1].job["status"] == STATUS
    assert [c["metadata"]["name"] for c in bench.observed[-1].jobs] == ["child"]


async def test_a_second_status_write_is_based_on_the_first(bench: Bench) -> None:
    await bench.reconcile(Plan(status=STATUS))
    await bench.reconcile(Plan(status={"phase": "Training"}))
    assert bench.cluster.objects["FineTuneJob", "team", "job-u1"]["status"] == {"phase": "Training"}


async def test_a_decision_that_rests_on_absence_is_confirmed_live_before_anything_is_written(bench: Bench) -> None:
    bench.cluster.seed(child_manifest(bench.job, "Job", "unseen"))
    bench.cluster.seed(child_manifest(bench.job, "PersistentVolumeClaim", "claim"))
    bench.decide = lambda observed: Plan() if observed.confirmed else Plan(needs_confirmation=True)
    await bench.reconcile()
    unconfirmed, confirmed = bench.observed
    assert (unconfirmed.confirmed, unconfirmed.jobs) == (False, ())
    assert [c["metadata"]["name"] for c in (*confirmed.jobs, *confirmed.others)] == ["unseen", "claim"]
    assert bench.cluster.writes == []


async def test_confirmation_finds_that_a_cached_child_is_gone(bench: Bench) -> None:
    child = bench.cluster.seed(child_manifest(bench.job))
    bench.store.put(child)
    bench.cluster.drop(child)
    bench.decide = lambda observed: Plan() if observed.confirmed else Plan(needs_confirmation=True)
    await bench.reconcile()
    assert [len(observed.jobs) for observed in bench.observed] == [1, 0]


async def test_a_child_that_exists_already_and_is_ours_is_taken_as_created(bench: Bench) -> None:
    manifest = child_manifest(bench.job)
    bench.cluster.seed(manifest)
    assert await bench.reconcile(Plan(create=(manifest,))) is None
    assert len(bench.store.children(bench.job, JOB)) == 1


async def test_a_child_of_somebody_else_with_our_name_is_a_refusal(bench: Bench) -> None:
    foreign = child_manifest(make_job("u2"))
    bench.cluster.seed(foreign)
    with pytest.raises(CreateRefusedError, match="cannot create Job child: AlreadyExists"):
        await bench.reconcile(Plan(create=(child_manifest(bench.job),)))
    await bench.reconcile(Plan())
    assert [(r.kind, r.name, r.reason) for r in bench.observed[-1].refusals] == [("Job", "child", "AlreadyExists")]


@pytest.mark.parametrize(
    "error",
    [
        ForbiddenError("exceeded quota: team", code=403, reason="Forbidden"),
        InvalidError("spec.template: Invalid value", code=422, reason="Invalid"),
    ],
)
async def test_a_refused_create_ends_the_execution_and_is_told_to_the_next_plan(
    bench: Bench, error: ForbiddenError | InvalidError
) -> None:
    bench.cluster.fail("create PersistentVolumeClaim", error)
    children = (child_manifest(bench.job, "PersistentVolumeClaim", "w"), child_manifest(bench.job))
    with pytest.raises(CreateRefusedError):
        await bench.reconcile(Plan(status=STATUS, create=children, events=(EVENT,)))
    assert bench.cluster.writes == ["update FineTuneJob/status", "create PersistentVolumeClaim", "create Event"]
    want_refusal = Refusal("PersistentVolumeClaim", "w", error.reason, str(error))
    assert await bench.reconcile(Plan(create=children)) == 0.0, "the condition must be taken back at once"
    await bench.reconcile(Plan())
    assert [observed.refusals for observed in bench.observed] == [(), (want_refusal,), ()]


async def test_after_a_conflict_the_live_version_is_known(bench: Bench) -> None:
    changed = bench.cluster.seed({**bench.job, "spec": {"task": "chat"}})
    with pytest.raises(ConflictError):
        await bench.reconcile(Plan(status=STATUS, create=(child_manifest(bench.job),)))
    assert bench.stored["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
    assert bench.cluster.writes == ["update FineTuneJob/status"]
    await bench.reconcile(Plan(status=STATUS))
    assert bench.stored["status"] == STATUS


async def test_a_job_that_is_gone_gets_no_children(bench: Bench) -> None:
    bench.cluster.drop(bench.job)
    decided = Plan(status=STATUS, create=(child_manifest(bench.job),), events=(EVENT,))
    assert await bench.reconcile(decided) == LOOK_AGAIN_SECONDS
    assert bench.cluster.writes == ["update FineTuneJob/status"]


async def test_a_job_with_the_name_of_a_deleted_one_is_not_taken_for_it(bench: Bench) -> None:
    bench.cluster.drop(bench.job)
    bench.cluster.seed(make_job("u2", name="job-u1"))
    assert await bench.reconcile(Plan(status=STATUS, create=(child_manifest(bench.job),))) == LOOK_AGAIN_SECONDS
    assert bench.cluster.writes == ["update FineTuneJob/status"]
    assert await bench.reconcile(Plan(needs_confirmation=True)) == LOOK_AGAIN_SECONDS
    assert bench.cluster.writes == ["update FineTuneJob/status"]


async def test_nothing_follows_a_status_write_that_failed(bench: Bench) -> None:
    bench.cluster.fail("update FineTuneJob/status", UnavailableError("no answer"))
    with pytest.raises(UnavailableError):
        await bench.reconcile(Plan(status=STATUS, create=(child_manifest(bench.job),), events=(EVENT,)))
    assert bench.cluster.writes == ["update FineTuneJob/status"]


@pytest.mark.parametrize("error", [UnavailableError("no answer"), ForbiddenError("no"), NotLeaderError("no")])
async def test_an_event_that_cannot_be_written_stops_nothing(bench: Bench, error: Exception) -> None:
    bench.cluster.fail("create Event", error)
    await bench.reconcile(Plan(status=STATUS, events=(EVENT, EVENT)))
    assert bench.cluster.events == [EVENT]


async def test_events_of_a_stored_status_are_written_though_a_child_was_not(bench: Bench) -> None:
    bench.cluster.fail("create Job", UnavailableError("no answer"))
    with pytest.raises(UnavailableError):
        await bench.reconcile(Plan(status=STATUS, create=(child_manifest(bench.job),), events=(EVENT,)))
    assert bench.cluster.events == [EVENT]


@pytest.mark.parametrize("error", [NotFoundError("not found", code=404), ConflictError("conflict", code=409)])
async def test_a_child_that_is_said_to_be_gone_and_is_not_is_deleted_again(
    bench: Bench, error: NotFoundError | ConflictError
) -> None:
    child = bench.cluster.seed(child_manifest(bench.job))
    bench.store.put(child)
    deletion = Deletion("batch/v1", "Job", "team", child["metadata"]["name"], child["metadata"]["uid"])
    bench.cluster.faults["delete Job"] = [error]
    with pytest.raises(type(error)):
        await bench.reconcile(Plan(delete=(deletion,)))
    assert len(bench.store.children(bench.job, JOB)) == 1
    await bench.reconcile(Plan(delete=(deletion,)))
    assert bench.store.children(bench.job, JOB) == ()


@pytest.mark.parametrize("state", ["gone", "replaced by another of its name"])
async def test_deleting_what_is_not_there_any_more_is_no_error(bench: Bench, state: str) -> None:
    child = bench.cluster.seed(child_manifest(bench.job))
    bench.store.put(child)
    bench.cluster.drop(child)
    if state != "gone":
        bench.cluster.seed(child_manifest(make_job("u2")))
    deletion = Deletion("batch/v1", "Job", "team", "child", child["metadata"]["uid"])
    await bench.reconcile(Plan(delete=(deletion,)))
    assert bench.store.children(bench.job, JOB) == ()
    assert len(bench.cluster.objects) == (1 if state == "gone" else 2)


async def test_a_patch_of_what_is_not_there_is_tried_again_by_another_look(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        await bench.reconcile(Plan(patch=(Patch("Job", "child", "c1", {"spec": {"suspend": True}}),)))
    assert bench.cluster.calls == ["patch Job"]


async def test_a_child_without_its_labels_gets_them_back(bench: Bench) -> None:
    manifest = child_manifest(bench.job)
    stored = {**manifest, "metadata": {**manifest["metadata"], "labels": {"team": "x"}}}
    bench.cluster.seed(stored)
    await bench.reconcile(Plan(create=(manifest,)))
    (child,) = [o for (kind, _, _), o in bench.cluster.objects.items() if kind == "Job"]
    assert child["metadata"]["labels"] == {"team": "x"} | manifest["metadata"]["labels"]


async def test_a_missing_namespace_is_an_error_and_not_a_missing_job(bench: Bench) -> None:
    bench.cluster.fail("create Job", NotFoundError("namespaces team not found", code=404))
    with pytest.raises(NotFoundError):
        await bench.reconcile(Plan(create=(child_manifest(bench.job),)))


async def test_the_pod_that_the_plan_names_is_followed_until_the_job_is_gone(bench: Bench) -> None:
    target = ProgressTarget("pod", "10.0.0.1", 9464)
    await bench.reconcile(Plan(progress_from=target))
    assert bench.progress.targets == {"u1": target}
    bench.store.remove("FineTuneJob", "u1")
    assert await bench.reconcile() is None
    assert bench.progress.targets == {}
