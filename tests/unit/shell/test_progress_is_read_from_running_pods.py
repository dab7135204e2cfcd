"""Progress: read from the pod or through the API server, believed only when it is valid and about this job."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from finetune_api.contract import ProgressReport
from finetune_api.status import Progress, Stage
from finetune_operator.core.actions import ProgressTarget
from finetune_operator.shell.progress import SIZE_LIMIT, Access, PodReader, ProgressReader, UnreadableError
from unit.shell.http_answers import Server, serving
from unit.shell.in_memory_cluster import InMemoryCluster
from unit.shell.objects import make_job


def report(step: int = 1, uid: str = "u1") -> dict[str, Any]:
    progress = Progress(stage=Stage.TRAIN, step=step, total_steps=10)
    return ProgressReport(job_uid=uid, attempt=1, progress=progress).to_json()


@dataclass
class Pod:
    """A stage pod on loopback, the API server beside it, and a reader of both."""

    server: Server
    cluster: InMemoryCluster
    session: aiohttp.ClientSession

    @property
    def target(self) -> ProgressTarget:
        return ProgressTarget("pod-1", "127.0.0.1", self.server.port)

    def reader(self, access: Access = "auto") -> PodReader:
        return PodReader(self.cluster, self.session, access, 5.0)


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with serving() as server, aiohttp.ClientSession() as session:
        yield Pod(server, InMemoryCluster(), session)


async def test_a_pod_is_read_at_its_own_address(pod: Pod) -> None:
    pod.server.answer(report())
    assert b"jobUid" in await pod.reader().read("team", pod.target)
    assert [path for _, path, _ in pod.server.requests] == ["/progress"]
    assert pod.cluster.calls == []


async def test_a_pod_that_cannot_be_reached_is_read_through_the_api_server_from_then_on(pod: Pod) -> None:
    pod.server.answer(b"", 503)
    pod.cluster.pod_answers["pod-1"] = b"{}"
    reader = pod.reader()
    for _ in range(3):
        assert await reader.read("team", pod.target) == b"{}"
    assert len(pod.server.requests) == 1
    assert len(pod.cluster.calls) == 3
    reader.forget(pod.target)
    await reader.read("team", pod.target)
    assert len(pod.server.requests) == 2, "the address may belong to another pod by now"


@pytest.mark.parametrize(("access", "want_requests", "want_calls"), [("direct", 1, 0), ("proxy", 0, 1), ("auto", 1, 1)])
async def test_pods_are_read_only_in_the_way_that_is_configured(
    pod: Pod, access: Access, want_requests: int, want_calls: int
) -> None:
    pod.server.answer(b"", 503)
    with pytest.raises(UnreadableError):
        await pod.reader(access).read("team", pod.target)
    assert (len(pod.server.requests), len(pod.cluster.calls)) == (want_requests, want_calls)


async def test_an_answer_without_end_is_not_read_to_its_end(pod: Pod) -> None:
    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 4096)

    pod.server.answers.append(flood)
    with pytest.raises(UnreadableError, match=f"more than {SIZE_LIMIT} bytes"):
        await pod.reader("direct").read("team", pod.target)


async def test_a_redirect_is_not_followed(pod: Pod) -> None:
    pod.server.answer(b"", 302, {"Location": f"{pod.server.url}/elsewhere"})
    with pytest.raises(UnreadableError, match="HTTP 302"):
        await pod.reader("direct").read("team", pod.target)
    assert len(pod.server.requests) == 1


class Following:
    """A progress reader with a short interval, and what it reported."""

    def __init__(self, pod: Pod, startup: float = 60.0) -> None:
        self.changed: list[str] = []
        self.results: list[str] = []
        self.wanted = 0
        self.enough = asyncio.Event()
        self.progress = ProgressReader(
            pod.reader("direct"),
            interval=0.001,
            max_rate=1000.0,
            concurrency=2,
            startup=startup,
            changed=self.changed.append,
            count=self._count,
        )
        self.pod = pod

    def _count(self, result: str) -> None:
        self.results.append(result)
        if len(self.results) >= self.wanted:
            self.enough.set()

    async def until(self, readings: int) -> None:
        """Follow until so many readings were judged."""
        self.wanted = readings
        self.progress.follow(make_job(), self.pod.target)
        async with asyncio.timeout(30):
            await self.enough.wait()


@pytest.fixture
async def following(pod: Pod) -> AsyncIterator[Following]:
    following = Following(pod)
    yield following
    following.progress.forget_all()


async def test_a_job_is_worked_on_only_when_its_report_has_changed(following: Following) -> None:
    for step in (1, 1, 1, 2, 2):
        following.pod.server.answer(report(step))
    await following.until(6)
    assert following.changed == ["u1", "u1"]
    last = following.progress.report("u1")
    assert last is not None
    assert last.progress.step == 2


@pytest.mark.parametrize(
    ("body", "want_result"),
    [
        (b"not json", "invalid"),
        (b"{}", "invalid"),
        (b'{"jobUid": "u1", "attempt": 1, "progress": {"stage": "dance"}}', "invalid"),
        (report(uid="u2"), "foreign"),
    ],
)
async def test_garbage_and_reports_about_other_jobs_are_ignored_and_logged_once(
    following: Following, body: object, want_result: str
) -> None:
    following.pod.server.answer(body)
    with capture_logs() as logs:
        await following.until(5)
    assert set(following.results) == {want_result}
    assert (following.changed, following.progress.report("u1")) == ([], None)
    assert [line["result"] for line in logs] == [want_result]


@pytest.mark.parametrize(("startup", "want"), [(60.0, []), (0.0, ["unreachable"])])
async def test_a_pod_that_is_still_starting_is_no_news(pod: Pod, startup: float, want: list[str]) -> None:
    following = Following(pod, startup)
    pod.server.answer(b"", 503)
    with capture_logs() as logs:
        await following.until(3)
    following.progress.forget_all()
    assert [line["result"] for line in logs] == want


async def test_a_useless_answer_does_not_hide_the_last_good_one(following: Following) -> None:
    following.pod.server.answer(report(3))
    following.pod.server.answer(b"", 500)
    await following.until(3)
    last = following.progress.report("u1")
    assert last is not None
    assert last.progress.step == 3


async def test_the_report_of_an_earlier_pod_is_forgotten(following: Following) -> None:
    following.pod.server.answer(report())
    await following.until(1)
    following.progress.follow(make_job(), ProgressTarget("pod-2", "127.0.0.1", 1))
    assert following.progress.report("u1") is None


async def test_nothing_is_left_of_a_job_that_is_not_followed_any_more(following: Following) -> None:
    following.pod.server.answer(report())
    await following.until(1)
    following.progress.follow(make_job(), None)
    assert following.progress._followed == {}
    assert following.progress.report("u1") is None


async def test_a_thousand_running_pods_are_read_less_often_each(pod: Pod) -> None:
    progress = ProgressReader(pod.reader(), interval=5.0, max_rate=20.0, concurrency=2, changed=lambda _uid: None)
    assert progress.interval == 5.0
    for i in range(1000):
        progress.follow(make_job(f"u{i}"), pod.target)
    assert progress.interval == 50.0
    progress.forget_all()
