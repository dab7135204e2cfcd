"""Whether the operator is alive and ready, and the one port where it tells: GET /healthz, /readyz, /metrics.

An API server that does not answer makes nobody unhealthy: a restart would not help. A watch or a worker that has
stopped trying does.
"""

from collections.abc import Callable

from aiohttp import web

WATCH_SECONDS = 150.0
"""A watch sends a bookmark each minute and is opened again at least every four; after errors within half a minute."""
WORK_SECONDS = 300.0
"""Longest time that work on one job can take while every request has a timeout."""


class Health:
    """Collects what says that something is stuck."""

    def __init__(self, watches: Callable[[], dict[str, float]], longest_run: Callable[[], float]) -> None:
        self._watches = watches
        self._longest_run = longest_run
        self.ready = False

    def problems(self) -> list[str]:
        """What is stuck; empty when nothing is."""
        stuck = [
            f"the watch of {resource} has shown no sign of life for {age:.0f} s"
            for resource, age in self._watches().items()
            if age > WATCH_SECONDS
        ]
        run = self._longest_run()
        return stuck if run <= WORK_SECONDS else [*stuck, f"work on one job has been running for {run:.0f} s"]


class Endpoints:
    """The HTTP server for kubelet and Prometheus."""

    def __init__(self, health: Health, metrics: Callable[[], bytes], host: str, port: int) -> None:
        self._health = health
        self._metrics = metrics
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._runner is None:
            return self._port
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=1024)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_text),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host or None, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        problems = self._health.problems()
        return web.Response(text="\n".join(problems) or "ok", status=500 if problems else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._health.ready
        return web.Response(text="ok" if ready else "reading the cluster", status=200 if ready else 503)

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
