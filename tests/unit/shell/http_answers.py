"""A real HTTP server on loopback that answers as the test says, and remembers what it was asked."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio.client import Configuration

from finetune_operator.shell.cluster import KubernetesCluster
from finetune_operator.shell.connection import Connection

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server:
    """Answers every request with the next of `answers`, and with the last one from then on."""

    def __init__(self, **common: str) -> None:
        self.common = common
        """What every document says."""
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.port = 0

    def answer(self, body: object = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Bytes are sent as they are."""
        document = self.common | body if isinstance(body, dict) else body
        content = body if isinstance(body, bytes) else json.dumps(document).encode()

        async def respond(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=content, status=status, headers=headers, content_type="application/json")

        self.answers.append(respond)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        text = await request.text()
        self.requests.append((request.method, request.path_qs, json.loads(text) if text else None))
        respond = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await respond(request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(**common: str) -> AsyncIterator[Server]:
    """A server that listens."""
    server = Server(**common)
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def cluster_at(server: Server, **options: Any) -> AsyncIterator[KubernetesCluster]:
    """The real adapter, connected to the server."""
    connection = Connection(Configuration(host=server.url), 2)
    try:
        yield KubernetesCluster(connection, timeout=options.pop("timeout", 5.0), **options)
    finally:
        await connection.close()
