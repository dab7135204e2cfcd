"""The queue: each key once at a time, each waiting once, failures later and later, nothing lost."""

import asyncio
from collections.abc import Callable

import pytest

from finetune_operator.shell.errors import TooManyRequestsError
from finetune_operator.shell.workqueue import WorkQueue, backoff


class Alarm:
    """A timer that rings when the test says so."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self.seconds, self.ring, self.cancelled = seconds, ring, False

    def cancel(self) -> None:
        self.cancelled = True


class Desk:
    """A queue with a handler that does what the test tells it to."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []
        self.errors: list[tuple[str, Exception]] = []
        self.queue = WorkQueue(self._schedule, lambda key, error, _delay: self.errors.append((key, error)))
        self.handled: list[str] = []
        self.running: set[str] = set()
        self.outcomes: list[float | Exception | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.task: asyncio.Task[None] | None = None

    def _schedule(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(seconds, ring))
        return self.alarms[-1]

    async def handle(self, key: str) -> float | None:
        assert key not in self.running, f"{key} is worked on twice at the same time"
        self.running.add(key)
        await self.gate.wait()
        self.running.discard(key)
        self.handled.append(key)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def work(self, workers: int = 4) -> None:
        """Work on all that can be worked on now."""
        if self.task is None:
            self.queue.open()
            self.task = asyncio.create_task(self.queue.run(self.handle, workers))
        for _ in range(50):
            await asyncio.sleep(0)

    async def stop(self) -> None:
        assert self.task is not None
        self.queue.stop()
        await self.task


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_key_that_is_added_often_is_worked_on_once(desk: Desk) -> None:
    for _ in range(5):
        desk.queue.add("a")
    desk.queue.add("b")
    assert len(desk.queue) == 2
    await desk.work()
    assert sorted(desk.handled) == ["a", "b"]


async def test_a_key_that_is_added_during_its_work_is_worked_on_again_afterwards(desk: Desk) -> None:
    desk.gate.clear()
    desk.queue.add("a")
    await desk.work()
    desk.queue.add("a")
    desk.queue.add("a")
    await desk.work()
    assert desk.handled == []
    desk.gate.set()
    await desk.work()
    assert desk.handled == ["a", "a"]


async def test_work_that_fails_is_tried_again_later_and_later_until_it_succeeds(desk: Desk) -> None:
    desk.outcomes = [RuntimeError("1"), RuntimeError("2"), RuntimeError("3"), None, RuntimeError("4")]
    desk.queue.add("a")
    for attempt in range(1, 4):
        await desk.work()
        assert len(desk.alarms) == attempt
        desk.alarms[-1].ring()
    first, second, third = (alarm.seconds for alarm in desk.alarms)
    assert first <= 0.25 <= second <= 0.5 <= third <= 1.0
    await desk.work()
    assert len(desk.alarms) == 3
    desk.queue.add("a")
    await desk.work()
    assert desk.alarms[-1].seconds <= 0.25
    assert [str(error) for _, error in desk.errors] == ["1", "2", "3", "4"]


async def test_the_server_decides_how_long_to_wait_when_it_says_so(desk: Desk) -> None:
    desk.outcomes = [TooManyRequestsError("slow down", retry_after=17.0)]
    desk.queue.add("a")
    await desk.work()
    assert desk.alarms[-1].seconds == 17.0


async def test_the_last_result_decides_when_a_key_comes_back(desk: Desk) -> None:
    desk.outcomes = [30.0, None]
    desk.queue.add("a")
    await desk.work()
    desk.queue.add("a")
    await desk.work()
    assert [(alarm.seconds, alarm.cancelled) for alarm in desk.alarms] == [(30.0, True)]


async def test_a_closed_queue_keeps_its_keys(desk: Desk) -> None:
    await desk.work()
    desk.queue.close()
    desk.queue.add("a")
    desk.queue.add("a")
    await desk.work()
    assert (desk.handled, len(desk.queue)) == ([], 1)
    desk.queue.open()
    await desk.work()
    assert desk.handled == ["a"]


async def test_stopping_finishes_what_runs_and_begins_nothing_new(desk: Desk) -> None:
    desk.gate.clear()
    for key in "abc":
        desk.queue.add(key)
    await desk.work(workers=1)
    stopping = asyncio.create_task(desk.stop())
    await desk.work()
    assert not stopping.done()
    desk.gate.set()
    await stopping
    assert desk.handled == ["a"]


async def test_stopping_a_closed_queue_ends_it(desk: Desk) -> None:
    await desk.work()
    desk.queue.close()
    desk.queue.add("a")
    await desk.stop()
    assert desk.handled == []


async def test_no_more_keys_are_worked_on_at_once_than_there_are_workers(desk: Desk) -> None:
    desk.gate.clear()
    for key in "abcdef":
        desk.queue.add(key)
    await desk.work(workers=2)
    assert len(desk.running) == 2


async def test_a_key_that_is_done_leaves_nothing_behind(desk: Desk) -> None:
    desk.outcomes = [RuntimeError("once")]
    desk.queue.add("a")
    await desk.work()
    desk.alarms[-1].ring()
    await desk.work()
    queue = desk.queue
    assert (queue._failures, queue._timers, queue._waiting, queue._running) == ({}, {}, set(), {})


@pytest.mark.parametrize(("failures", "want_longest"), [(1, 0.25), (2, 0.5), (5, 4.0), (20, 60.0), (10_000, 60.0)])
def test_the_wait_doubles_up_to_a_minute(failures: int, want_longest: float) -> None:
    waits = [backoff(failures) for _ in range(100)]
    assert want_longest / 2 <= min(waits) <= max(waits) <= want_longest
