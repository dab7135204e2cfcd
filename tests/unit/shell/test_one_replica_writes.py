"""The election: one leader at a time by everybody's own clock, a quick handover, and no write without a valid Lease."""

import pytest

from finetune_operator.shell.errors import ConflictError, NotLeaderError, UnavailableError
from finetune_operator.shell.leader import Election, LeaseTimes
from unit.shell.in_memory_cluster import InMemoryCluster


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Replica:
    """One candidate."""

    def __init__(self, name: str, cluster: InMemoryCluster, clock: Clock) -> None:
        self.changes: list[bool] = []
        self.election = Election(
            cluster,
            namespace="finetune-system",
            name="finetune-operator",
            identity=name,
            times=LeaseTimes(15, 10.0, 2.0),
            changed=self.changes.append,
            clock=clock,
        )

    async def attempt(self) -> bool:
        await self.election.attempt()
        return self.election.leads()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster() -> InMemoryCluster:
    return InMemoryCluster()


@pytest.fixture
def first(cluster: InMemoryCluster, clock: Clock) -> Replica:
    return Replica("first", cluster, clock)


@pytest.fixture
def second(cluster: InMemoryCluster, clock: Clock) -> Replica:
    return Replica("second", cluster, clock)


async def test_the_first_replica_leads_and_the_second_waits(first: Replica, second: Replica) -> None:
    assert await first.attempt()
    assert not await second.attempt()
    assert (first.changes, second.changes) == ([True], [])


async def test_nobody_may_write_before_the_first_attempt(first: Replica) -> None:
    with pytest.raises(NotLeaderError, match="first does not hold the Lease finetune-system/finetune-operator"):
        first.election.fence()


async def test_a_leader_that_renews_stays_the_leader(first: Replica, second: Replica, clock: Clock) -> None:
    await first.attempt()
    for _ in range(30):
        clock.now += 2.0
        assert await first.attempt()
        assert not await second.attempt()


async def test_renewing_costs_one_request(first: Replica, cluster: InMemoryCluster) -> None:
    await first.attempt()
    cluster.calls.clear()
    await first.attempt()
    assert cluster.calls == ["update Lease"]


async def test_a_leader_that_cannot_renew_stops_before_another_may_start(
    first: Replica, second: Replica, clock: Clock
) -> None:
    await first.attempt()
    await second.attempt()
    led_by_first, led_by_second = [], []
    for _ in range(20):
        clock.now += 1.0
        led_by_second.append(await second.attempt())
        led_by_first.append(first.election.leads())
    assert led_by_first == [True] * 9 + [False] * 11
    assert led_by_second == [False] * 14 + [True] * 6


async def test_a_standby_counts_from_what_it_sees_itself(first: Replica, second: Replica, clock: Clock) -> None:
    await first.attempt()
    clock.now += 60.0
    assert not await second.attempt(), "the leader may have renewed a moment ago; nobody's clock is trusted"


async def test_a_leader_that_leaves_is_replaced_at_once(first: Replica, second: Replica) -> None:
    await first.attempt()
    await second.attempt()
    await first.election.release()
    assert await second.attempt()
    assert first.changes == [True, False]


async def test_a_leader_without_an_answer_leads_until_its_deadline(
    first: Replica, cluster: InMemoryCluster, clock: Clock
) -> None:
    await first.attempt()
    cluster.fail("update Lease", UnavailableError("no answer"))
    cluster.fail("get Lease", *[UnavailableError("no answer")] * 5)
    leads = []
    for _ in range(6):
        clock.now += 2.0
        leads.append(await first.attempt())
    assert leads == [True] * 4 + [False] * 2
    clock.now += 2.0
    assert await first.attempt()
    assert first.changes == [True, False, True]


async def test_a_lease_that_somebody_took_ends_the_leadership_at_once(
    first: Replica, cluster: InMemoryCluster, clock: Clock
) -> None:
    await first.attempt()
    lease = cluster.objects["Lease", "finetune-system", "finetune-operator"]
    cluster.seed({**lease, "spec": {**lease["spec"], "holderIdentity": "an administrator"}})
    clock.now += 2.0
    await first.attempt()
    assert not await first.attempt()


async def test_two_replicas_that_take_over_at_the_same_time_do_not_both_lead(
    first: Replica, second: Replica, cluster: InMemoryCluster, clock: Clock
) -> None:
    await first.attempt()
    await second.attempt()
    clock.now += 20.0
    cluster.fail("update Lease", ConflictError("another version", code=409))
    assert not await second.attempt()


async def test_a_replica_that_starts_again_under_its_name_leads_at_once(
    first: Replica, cluster: InMemoryCluster, clock: Clock
) -> None:
    await first.attempt()
    assert await Replica("first", cluster, clock).attempt()


async def test_the_lease_says_who_leads_and_how_often_that_changed(
    first: Replica, second: Replica, cluster: InMemoryCluster
) -> None:
    await first.attempt()
    await first.election.release()
    await second.attempt()
    spec = cluster.objects["Lease", "finetune-system", "finetune-operator"]["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("second", 1, 15)
    assert spec["renewTime"].endswith("Z")
