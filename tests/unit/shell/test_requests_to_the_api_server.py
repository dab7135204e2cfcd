"""The adapter: which request stands for which method, and which error for which answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.core.actions import Deletion, Event, Patch
from finetune_operator.shell import errors
from finetune_operator.shell.cluster import NOTE_LIMIT, ReadLimits
from finetune_operator.shell.kinds import FINE_TUNE_JOB, JOB, POD, WORKLOAD
from unit.shell.http_answers import Server, cluster_at, serving
from unit.shell.objects import child_manifest, make_job

JOBS = "/apis/slmops.dev/v1alpha1/namespaces/team/finetunejobs"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(kind="Any") as server:
        yield server


def status_of(reason: str, message: str = "because") -> dict[str, str]:
    return {"kind": "Status", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("code", "reason", "want_error"),
    [
        (400, "BadRequest", errors.InvalidError),
        (401, "Unauthorized", errors.UnavailableError),
        (403, "Forbidden", errors.ForbiddenError),
        (404, "NotFound", errors.NotFoundError),
        (405, "MethodNotAllowed", errors.ApiError),
        (409, "AlreadyExists", errors.AlreadyExistsError),
        (409, "Conflict", errors.ConflictError),
        (410, "Expired", errors.GoneError),
        (413, "RequestEntityTooLarge", errors.InvalidError),
        (422, "Invalid", errors.InvalidError),
        (429, "TooManyRequests", errors.TooManyRequestsError),
        (500, "InternalError", errors.UnavailableError),
        (503, "ServiceUnavailable", errors.UnavailableError),
        (504, "Timeout", errors.UnavailableError),
    ],
)
async def test_each_answer_has_its_error(
    server: Server, code: int, reason: str, want_error: type[errors.ApiError]
) -> None:
    server.answer(status_of(reason), code)
    async with cluster_at(server) as cluster:
        with pytest.raises(errors.ApiError, match="because") as caught:
            await cluster.create(child_manifest(make_job()))
    assert (type(caught.value), caught.value.code, caught.value.reason) == (want_error, code, reason)


async def test_the_server_says_how_long_to_wait(server: Server) -> None:
    server.answer(status_of("TooManyRequests"), 429, {"Retry-After": "7"})
    async with cluster_at(server) as cluster:
        with pytest.raises(errors.TooManyRequestsError) as caught:
            await cluster.get(JOB, "team", "child")
    assert caught.value.retry_after == 7.0


async def test_an_answer_that_is_no_json_is_quoted(server: Server) -> None:
    server.answer(b"<html>bad gateway</html>", 502)
    async with cluster_at(server) as cluster:
        with pytest.raises(errors.UnavailableError, match="bad gateway"):
            await cluster.get(JOB, "team", "child")


async def test_no_answer_in_time_is_an_error_that_can_be_tried_again(server: Server) -> None:
    forever = asyncio.Event()

    async def never(_request: web.BaseRequest) -> web.StreamResponse:
        await forever.wait()
        return web.Response()

    server.answers.append(never)
    seen: list[tuple[str, str, int]] = []
    async with cluster_at(server, timeout=0.05, observe=lambda *call: seen.append(call)) as cluster:
        with pytest.raises(errors.UnavailableError, match="no answer to get jobs"):
            await cluster.get(JOB, "team", "child")
    forever.set()
    assert seen == [("get", "jobs", 0)]


async def test_a_refused_connection_is_an_error_that_can_be_tried_again(server: Server) -> None:
    server.port = 1
    async with cluster_at(server) as cluster:
        with pytest.raises(errors.UnavailableError, match="no answer"):
            await cluster.get(JOB, "team", "child")


def _listed(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "team", "uid": name, "resourceVersion": "7"}}


async def test_a_list_is_read_page_by_page_and_its_items_know_their_kind(server: Server) -> None:
    first = _listed("a")
    first["metadata"]["annotations"] = {"request": "long"}
    server.answer({"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [first]})
    server.answer({"metadata": {"resourceVersion": "9"}, "items": [_listed("b")]})
    async with cluster_at(server) as cluster:
        listing = await cluster.list_all(POD, None, "slmops.dev/job-uid")
    assert [(i.manifest()["apiVersion"], i.kind, i.name) for i in listing.items] == [
        ("v1", "Pod", "a"),
        ("v1", "Pod", "b"),
    ]
    assert listing.resource_version == 9
    assert all(b"long" not in i.content for i in listing.items), (
        "thousands of whole objects would be the peak of memory"
    )
    page = "/api/v1/pods?limit=500&labelSelector=slmops.dev/job-uid"
    assert [path for _, path, _ in server.requests] == [page, f"{page}&continue=more"]


async def test_a_list_whose_pages_are_too_old_is_read_again(server: Server) -> None:
    server.answer({"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [_listed("a")]})
    server.answer(status_of("Expired"), 410)
    server.answer({"metadata": {"resourceVersion": "20"}, "items": [_listed("b")]})
    async with cluster_at(server) as cluster:
        listing = await cluster.list_all(FINE_TUNE_JOB, "team")
    assert ([i.name for i in listing.items], listing.resource_version) == (["b"], 20)


async def test_pages_that_are_always_too_old_are_an_error_and_no_endless_loop(server: Server) -> None:
    server.answer(status_of("Expired"), 410)
    async with cluster_at(server) as cluster:
        with pytest.raises(errors.GoneError):
            await cluster.list_all(FINE_TUNE_JOB, "team")
    assert len(server.requests) == 2


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"", b"[]", b"null", b'{"items": []}'])
async def test_an_answer_that_is_no_kubernetes_object_is_no_answer(server: Server, body: bytes) -> None:
    server.answer(body)
    async with cluster_at(server) as cluster:
        with pytest.raises(errors.UnavailableError, match="the answer to get jobs is no Kubernetes object"):
            await cluster.get(JOB, "team", "child")


async def test_a_status_is_replaced_whole_and_only_on_the_version_it_was_made_for(server: Server) -> None:
    server.answer({})
    async with cluster_at(server) as cluster:
        await cluster.replace_status(make_job(version=7), {"phase": "Training"})
    metadata = {"name": "job-u1", "namespace": "team", "uid": "u1", "resourceVersion": "7"}
    want_body = {"apiVersion": "slmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata}
    want_path = f"{JOBS}/job-u1/status?fieldManager=finetune-operator"
    assert server.requests == [("PUT", want_path, want_body | {"status": {"phase": "Training"}})]


async def test_a_workload_is_patched_where_the_queue_manager_keeps_it(server: Server) -> None:
    server.answer({})
    async with cluster_at(server) as cluster:
        await cluster.patch("team", Patch("Workload", "job-child", "w1", {"spec": {"active": False}}))
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team/workloads/job-child?fieldManager=finetune-operator"
    assert server.requests == [("PATCH", path, {"spec": {"active": False}, "metadata": {"uid": "w1"}})]


@pytest.mark.parametrize(
    ("resources", "code", "want"),
    [([{"name": "workloads"}], 200, True), ([{"name": "localqueues"}], 200, False), ([], 404, False)],
)
async def test_a_queue_manager_is_found_by_discovery(
    server: Server, resources: list[dict[str, str]], code: int, want: bool
) -> None:
    server.answer({"resources": resources}, code)
    async with cluster_at(server) as cluster:
        assert await cluster.serves(WORKLOAD) is want
    assert [path for _, path, _ in server.requests] == ["/apis/kueue.x-k8s.io/v1beta2"]


async def test_a_patch_and_a_delete_name_the_uid_they_mean(server: Server) -> None:
    server.answer({"kind": "Status", "status": "Success"})
    async with cluster_at(server) as cluster:
        await cluster.patch("team", Patch("Job", "child", "c1", {"spec": {"suspend": True}}))
        gone = await cluster.delete(Deletion("batch/v1", "Job", "team", "child", "c1", "Foreground"))
    path = "/apis/batch/v1/namespaces/team/jobs/child"
    patch = {"spec": {"suspend": True}, "metadata": {"uid": "c1"}}
    options = {"propagationPolicy": "Foreground", "preconditions": {"uid": "c1"}}
    assert server.requests == [
        ("PATCH", f"{path}?fieldManager=finetune-operator", patch),
        ("DELETE", path, options),
    ]
    assert gone is None


async def test_an_object_that_is_only_marked_for_deletion_is_returned(server: Server) -> None:
    server.answer({"kind": "Job", "metadata": {"deletionTimestamp": "2026-11-21T00:00:00Z"}})
    async with cluster_at(server) as cluster:
        marked = await cluster.delete(Deletion("batch/v1", "Job", "team", "child", "c1"))
    assert marked is not None


async def test_an_event_is_about_the_job_and_fits(server: Server) -> None:
    server.answer({}, 201)
    async with cluster_at(server, instance="pod-1") as cluster:
        await cluster.create_event(make_job(version=7), Event("Warning", "OutOfMemory", "ü" * 2000))
    method, path, event = server.requests[0]
    assert (method, path) == (
        "POST",
        "/apis/events.k8s.io/v1/namespaces/team/events?fieldManager=finetune-operator",
    )
    assert len(event["note"].encode()) == NOTE_LIMIT
    assert (event["type"], event["reason"]) == ("Warning", "OutOfMemory")
    assert event["regarding"]["uid"] == "u1"
    assert event["reportingInstance"] == "pod-1"


async def test_every_write_passes_the_fence_and_no_read_does(server: Server) -> None:
    def fence() -> None:
        raise errors.NotLeaderError("not me")

    server.answer({"metadata": {"resourceVersion": "1"}})
    job, child = make_job(), child_manifest(make_job())
    async with cluster_at(server, fence=fence) as cluster:
        await cluster.get(JOB, "team", "child")
        await cluster.list_all(JOB, "team")
        writes = (
            cluster.create(child),
            cluster.replace(child),
            cluster.replace_status(job, {}),
            cluster.patch("team", Patch("Job", "child", "c1", {})),
            cluster.delete(Deletion("batch/v1", "Job", "team", "child", "c1")),
            cluster.create_event(job, Event("Normal", "Prepared", "")),
        )
        for write in writes:
            with pytest.raises(errors.NotLeaderError):
                await write
    assert {method for method, _, _ in server.requests} == {"GET"}


async def test_a_pod_is_read_through_the_proxy_and_not_beyond_its_limit(server: Server) -> None:
    server.answer(b"x" * 100)
    async with cluster_at(server) as cluster:
        limits = ReadLimits(seconds=5.0, size=100)
        assert await cluster.read_pod("team", "pod-1", 9464, "/progress", limits) == b"x" * 100
        with pytest.raises(errors.OversizeError):
            await cluster.read_pod("team", "pod-1", 9464, "/progress", ReadLimits(seconds=5.0, size=99))
    assert server.requests[0][1] == "/api/v1/namespaces/team/pods/pod-1:9464/proxy/progress"


async def test_connections_are_reused_and_bounded(server: Server) -> None:
    peers: set[object] = set()
    all_here, arrived = asyncio.Event(), 0

    async def note_peer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        if arrived == 2:
            all_here.set()
        await all_here.wait()
        return web.json_response({"kind": "Job"})

    server.answers.append(note_peer)
    async with cluster_at(server) as cluster:
        await asyncio.gather(*(cluster.get(JOB, "team", str(i)) for i in range(20)))
    assert len(peers) == 2
