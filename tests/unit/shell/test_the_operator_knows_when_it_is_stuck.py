"""Signs of life, health and the port where they are told."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from finetune_operator.shell.connection import open_session
from finetune_operator.shell.health import WATCH_SECONDS, WORK_SECONDS, Endpoints, Health
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.signs_of_life import AT_ONCE_SECONDS, SignsOfLife
from finetune_operator.shell.store import Store
from unit.shell.http_answers import Server, serving
from unit.shell.objects import make_job

PATH = "/apis/slmops.dev/v1alpha1/finetunejobs"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watch on a real connection, and what is known about it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.clock = Clock()
        self.relisted: list[str] = []
        self.pauses: list[float] = []
        self.signs = SignsOfLife({PATH: "finetunejobs"}, self.relisted.append, self.clock, self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def session(self) -> aiohttp.ClientSession:
        return await open_session(Configuration(host=self.server.url), self.signs.session_options())


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with serving() as server:
        yield Watched(server)


async def test_each_piece_of_data_on_a_watch_is_a_sign_of_life(watched: Watched) -> None:
    async def bookmarks(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2):
            watched.clock.now += 60.0
            await response.write(b'{"type": "BOOKMARK"}\n')
        return response

    watched.server.answers.append(bookmarks)
    async with await watched.session() as session:
        url = f"{watched.server.url}{PATH}?watch=true"
        response = await session.get(url)
        ages = [watched.signs.heard()["finetunejobs"] async for _ in response.content.iter_chunked(1024)]
    assert set(ages) == {0.0}
    watched.clock.now += 30.0
    assert watched.signs.heard() == watched.signs.tried() == {"finetunejobs": 30.0}


async def _watch(session: aiohttp.ClientSession, watched: Watched) -> list[bytes]:
    async with session.get(f"{watched.server.url}{PATH}?watch=true") as response:
        return [chunk async for chunk in response.content.iter_chunked(1024)]


async def test_watches_that_end_at_once_with_nothing_are_spaced_out(watched: Watched) -> None:
    watched.server.answers.extend([_nothing] * 5)
    watched.server.answer({"type": "BOOKMARK"})
    watched.server.answers.append(_nothing)
    async with await watched.session() as session:
        for _ in range(4):
            await _watch(session, watched)
        assert [0.12 * 2**i <= pause <= 0.26 * 2**i for i, pause in enumerate(watched.pauses)] == [True] * 3
        watched.clock.now += AT_ONCE_SECONDS
        await _watch(session, watched)
        assert len(watched.pauses) == 3, "one that lasted is no reason to wait"
        assert await _watch(session, watched)
        await _watch(session, watched)
        assert len(watched.pauses) == 4, "nor is one that brought something"


async def _nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def test_a_session_that_is_closed_under_a_watch_is_a_lost_connection(watched: Watched) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{}\n")
        await asyncio.sleep(5)
        return response

    watched.server.answers.append(endless)
    session = await watched.session()
    response = await session.get(f"{watched.server.url}{PATH}?watch=true")
    chunks = response.content.iter_chunked(1024)
    await anext(chunks)
    await session.close()
    await asyncio.sleep(0.05)  # the connection closes behind it
    with pytest.raises(aiohttp.ClientConnectionError):
        await asyncio.wait_for(anext(chunks), 5)


async def test_a_session_that_is_closed_under_a_request_is_a_lost_connection(watched: Watched) -> None:
    async def closing(request: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
        raise AssertionError

    (survive,) = watched.signs.session_options()["middlewares"]
    with pytest.raises(aiohttp.ClientConnectionError, match="session was closed"):
        await survive(None, closing)


async def test_an_attempt_without_an_answer_counts_as_trying_only(watched: Watched) -> None:
    watched.clock.now = 100.0
    watched.server.port = 1
    async with await watched.session() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{watched.server.url}{PATH}?watch=true")
    assert watched.signs.tried() == {"finetunejobs": 0.0}
    assert watched.signs.heard() == {"finetunejobs": 100.0}


@pytest.mark.parametrize(
    ("query", "want_relisted"),
    [("limit=500", [PATH]), ("limit=500&continue=x", []), ("watch=true", [])],
)
async def test_a_new_list_means_that_the_watch_began_anew(
    watched: Watched, query: str, want_relisted: list[str]
) -> None:
    watched.server.answer({})
    async with await watched.session() as session:
        response = await session.get(f"{watched.server.url}{PATH}?{query}")
        assert await response.json() == {}
        await session.get(f"{watched.server.url}/api/v1/nodes")
    assert watched.relisted == want_relisted


@pytest.mark.parametrize(
    ("age", "run", "want_problems"),
    [
        (WATCH_SECONDS, WORK_SECONDS, []),
        (151.0, 0.0, ["the watch of pods has shown no sign of life for 151 s"]),
        (0.0, 301.0, ["work on one job has been running for 301 s"]),
    ],
)
def test_what_is_stuck_is_named(age: float, run: float, want_problems: list[str]) -> None:
    assert Health(lambda: {"pods": age}, lambda: run).problems() == want_problems


class Operator:
    """The endpoints of an operator whose watch has an age."""

    def __init__(self) -> None:
        self.age = 0.0
        self.health = Health(lambda: {"pods": self.age}, lambda: 0.0)
        self.metrics = Metrics()
        self.endpoints = Endpoints(self.health, self.metrics.text, "127.0.0.1", 0)

    async def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.endpoints.port}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url) as response:
            return response.status, await response.text()


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    operator = Operator()
    await operator.endpoints.start()
    yield operator
    await operator.endpoints.stop()


async def test_a_stuck_operator_asks_to_be_restarted(operator: Operator) -> None:
    assert await operator.ask("/healthz") == (200, "ok")
    operator.age = 200.0
    code, text = await operator.ask("/healthz")
    assert (code, text) == (500, "the watch of pods has shown no sign of life for 200 s")


async def test_an_operator_is_ready_once_it_has_read_the_cluster(operator: Operator) -> None:
    assert (await operator.ask("/readyz"))[0] == 503
    operator.health.ready = True
    assert await operator.ask("/readyz") == (200, "ok")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_changed_through_the_port(operator: Operator, path: str, method: str) -> None:
    assert (await operator.ask(path, method))[0] == 405


async def test_metrics_count_jobs_by_phase_and_name_no_job(operator: Operator) -> None:
    store = Store()
    for job in (make_job("u1"), make_job("u2", phase="Training"), make_job("u3", phase="Training")):
        store.put(job)
    operator.metrics.observe_jobs(store.phases)
    operator.metrics.observe_queue(lambda: 4)
    operator.metrics.observe_watches(lambda: {"pods": 1.5})
    operator.metrics.count_request("create", "jobs", 201)
    _, text = await operator.ask("/metrics")
    for line in (
        'finetune_jobs{phase="Pending"} 1.0',
        'finetune_jobs{phase="Training"} 2.0',
        'finetune_jobs{phase="Failed"} 0.0',
        "finetune_workqueue_depth 4.0",
        'finetune_watch_age_seconds{resource="pods"} 1.5',
        'finetune_api_requests_total{code="201",resource="jobs",verb="create"} 1.0',
        "finetune_leader 0.0",
        'finetune_build_info{version="',
    ):
        assert line in text
    assert "job-u1" not in text
