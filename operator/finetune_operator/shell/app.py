"""Puts the parts together, starts them in order and stops them in order. Decides nothing about jobs."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Collection, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf
import structlog

from finetune_operator.core.observed import Observed
from finetune_operator.core.plan import Plan, plan
from finetune_operator.settings import OperatorSettings
from finetune_operator.shell.cluster import Cluster, KubernetesCluster
from finetune_operator.shell.connection import Connection, in_cluster, load_configuration
from finetune_operator.shell.errors import ApiError, ConflictError, NotFoundError, NotLeaderError
from finetune_operator.shell.health import Endpoints, Health
from finetune_operator.shell.kinds import WATCHED, WORKLOAD, Kind
from finetune_operator.shell.leader import Election, LeaseTimes
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.progress import PodReader, ProgressReader
from finetune_operator.shell.reconciler import CreateRefusedError, Reconciler
from finetune_operator.shell.resync import Resync
from finetune_operator.shell.signs_of_life import SignsOfLife
from finetune_operator.shell.store import Store
from finetune_operator.shell.watches import Watches, kopf_settings
from finetune_operator.shell.workqueue import WorkQueue, backoff

log = structlog.get_logger()

FINISH_SECONDS = 5.0
"""Time that running work gets when the operator is asked to stop; all together it makes less than ten."""
RELEASE_SECONDS = 1.5
"""Time to give the Lease back; without, another replica leads after the Lease has run out."""
WATCHES_SECONDS = 2.0
"""Time that kopf gets to close the watches."""


class Operator:
    """One replica."""

    def __init__(
        self, settings: OperatorSettings, work: Connection, lease: Connection, pods: aiohttp.ClientSession
    ) -> None:
        self.settings = settings
        self.configuration = settings.configuration()
        self.metrics = Metrics()
        self.store = Store()
        self.queue = WorkQueue(on_error=self._report)
        self.election = self._election(lease)
        self.cluster = self._cluster(work)
        self.progress = self._progress(pods)
        self.reconciler = Reconciler(self.store, self.cluster, self._plan, self.progress)
        self.scopes: tuple[str | None, ...] = settings.namespaces or (None,)
        self.follows_queues = False
        self.resync = Resync(self.store, self.cluster, self.scopes, settings.resync_seconds, self.queue.add)
        self.signs = SignsOfLife(_paths(WATCHED, self.scopes), lambda _path: self.resync.soon(), time.monotonic)
        self.watches = Watches(self.store, self.queue.add, self.signs)
        self.health = Health(self.signs.tried, self.queue.longest_run)
        self.endpoints = Endpoints(self.health, self.metrics.text, settings.http_host, settings.http_port)
        self.metrics.observe_jobs(self.store.phases)
        self.metrics.observe_queue(lambda: len(self.queue))
        self.metrics.observe_watches(self.signs.heard)

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop` is set (exit code 0) or a part ends by itself (1)."""
        await self.endpoints.start()
        try:
            if not await self._until(stop, self._read_cluster()):
                return 0
            self.health.ready = True
            return await self._serve(stop)
        finally:
            await self.endpoints.stop()

    async def _read_cluster(self) -> None:
        """Fill the cache before anything is decided; a cluster without the CRD is waited for."""
        failures = 0
        while True:
            try:
                await self._follow_queues()
                return await self.resync.once()
            except NotFoundError:
                log.warning("the CRD finetunejobs.slmops.dev is not installed; apply crds/, waiting for it")
            except ApiError as error:
                log.warning("cannot read the cluster", error=str(error))
            failures += 1
            await asyncio.sleep(backoff(failures, longest=15.0))

    async def _follow_queues(self) -> None:
        """Watch the Workloads of Kueue where it is installed; it is never required."""
        if self.follows_queues or not await self.cluster.serves(WORKLOAD):
            return
        self.follows_queues = True
        self.resync.add(WORKLOAD)
        self.watches.add(WORKLOAD)
        self.signs.add(_paths([WORKLOAD], self.scopes))

    async def _notice_queues(self) -> None:
        """Ends once Kueue is installed after the operator has started: kopf cannot begin to watch one more kind."""
        while True:
            await asyncio.sleep(self.settings.resync_seconds)
            if await self._queues_appeared():
                break
        log.warning("Kueue has been installed; starting again to follow its Workloads")

    async def _queues_appeared(self) -> bool:
        try:
            return await self.cluster.serves(WORKLOAD)
        except ApiError:
            return False

    async def _serve(self, stop: asyncio.Event) -> int:
        ended_watching = asyncio.Event()
        work = asyncio.create_task(self.queue.run(self._reconcile, self.settings.workers), name="workers")
        background = {work, asyncio.create_task(self.resync.run(), name="resync")}
        if not self.follows_queues:
            background.add(asyncio.create_task(self._notice_queues(), name="queues"))
        if self.settings.leader_election:
            background.add(asyncio.create_task(self.election.run(), name="election"))
        else:
            self._lead(True)
        await asyncio.sleep(0)  # kopf cancels what was begun after it when it ends; these must not be
        watching = asyncio.create_task(self._watch(ended_watching, stop), name="watches")
        lost = asyncio.create_task(self.watches.ended.wait(), name="watches")
        asked = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait({*background, watching, lost, asked}, return_when=asyncio.FIRST_COMPLETED)
        await self._finish(work)
        await _end({*background, lost, asked})
        ended_watching.set()
        await asyncio.wait({watching}, timeout=WATCHES_SECONDS)
        return _exit_code(done - {asked})

    async def _watch(self, ended: asyncio.Event, stop: asyncio.Event) -> None:
        """kopf, with our own signal handlers: it would end the watches first, and we end the work first."""
        known = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self.watches.registry,
            settings=kopf_settings(),
            standalone=True,
            clusterwide=not self.settings.namespaces,
            namespaces=self.settings.namespaces,
            stop_flag=ended,
        )
        handle_signals(stop)
        await kopf.run_tasks(tasks, ignored=known)

    async def _finish(self, work: asyncio.Task[None]) -> None:
        """Let running work end, then let another replica lead."""
        self.queue.stop()
        await asyncio.wait({work}, timeout=FINISH_SECONDS)
        self.progress.forget_all()
        if self.settings.leader_election:
            await asyncio.wait({asyncio.create_task(self.election.release())}, timeout=RELEASE_SECONDS)

    async def _reconcile(self, uid: str) -> float | None:
        with self.metrics.reconcile_duration.time():
            return await self.reconciler.reconcile(uid)

    def _plan(self, observed: Observed) -> Plan:
        return plan(observed, datetime.now(UTC), self.configuration)

    def _lead(self, leads: bool) -> None:
        self.metrics.leader.set(leads)
        if not leads:
            self.queue.close()
            return
        for uid in self.store.job_uids():
            self.queue.add(uid)
        self.queue.open()

    def _report(self, uid: str, error: Exception, delay: float) -> None:
        self.metrics.reconcile_errors.labels(type(error).__name__).inc()
        known = {"uid": uid, "error": str(error), "again_after_seconds": round(delay, 1)}
        if isinstance(error, NotLeaderError):
            log.info("another replica may lead; nothing more is written", **known)
        elif isinstance(error, ConflictError):
            log.info("the job changed meanwhile", **known)
        elif isinstance(error, ApiError | CreateRefusedError):
            log.warning("cannot bring a job up to date", **known)
        else:
            log.error("cannot bring a job up to date", exc_info=error, **known)

    def _cluster(self, connection: Connection) -> Cluster:
        return KubernetesCluster(
            connection,
            timeout=self.settings.api_timeout_seconds,
            fence=self.election.fence if self.settings.leader_election else lambda: None,
            observe=self.metrics.count_request,
            instance=self._identity,
        )

    def _election(self, connection: Connection) -> Election:
        settings = self.settings
        times = LeaseTimes(
            settings.lease_duration_seconds, settings.lease_renew_deadline_seconds, settings.lease_retry_seconds
        )
        cluster = KubernetesCluster(connection, timeout=times.deadline / 2, observe=self.metrics.count_request)
        return Election(
            cluster,
            namespace=settings.operator_namespace,
            name=settings.lease_name,
            identity=self._identity,
            times=times,
            changed=self._lead,
        )

    def _progress(self, session: aiohttp.ClientSession) -> ProgressReader:
        settings = self.settings
        return ProgressReader(
            PodReader(self.cluster, session, settings.progress_access, settings.progress_timeout_seconds),
            interval=settings.progress_interval_seconds,
            max_rate=settings.progress_max_rate,
            concurrency=settings.progress_concurrency,
            changed=self.queue.add,
            count=lambda result: self.metrics.progress_reads.labels(result).inc(),
        )

    @property
    def _identity(self) -> str:
        host = socket.gethostname()
        return self.settings.identity or (host if in_cluster() else f"{host}-{os.getpid()}")

    @staticmethod
    async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
        """Whether the work ended before `stop` was set."""
        doing, asked = asyncio.create_task(work), asyncio.create_task(stop.wait())
        await asyncio.wait({doing, asked}, return_when=asyncio.FIRST_COMPLETED)
        finished = doing.done()
        await _end({doing, asked})
        if finished:
            doing.result()
        return finished


def handle_signals(stop: asyncio.Event) -> None:
    """Have SIGTERM and SIGINT set `stop`."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def run(settings: OperatorSettings) -> int:
    """Run one replica; returns the exit code."""
    stop = asyncio.Event()
    handle_signals(stop)
    work = Connection(await load_configuration(), settings.api_connections)
    lease = Connection(await load_configuration(), 1)
    connector = aiohttp.TCPConnector(limit=settings.progress_concurrency)
    try:
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as pods:
            return await Operator(settings, work, lease, pods).run(stop)
    finally:
        await work.close()
        await lease.close()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _exit_code(ended: Collection[asyncio.Task[Any]]) -> int:
    """Whatever ends by itself ends the process, so that its pod is started again: a zombie would help nobody."""
    for task in ended:
        error = task.exception() if not task.cancelled() else None
        log.error("a part of the operator ended by itself", part=task.get_name(), exc_info=error)
    return 1 if ended else 0


def _paths(kinds: Iterable[Kind], namespaces: tuple[str | None, ...]) -> dict[str, str]:
    """Path of each watched collection and its name for people."""
    return {
        kind.path(namespace): f"{kind.plural} of {namespace}" if namespace else kind.plural
        for kind in kinds
        for namespace in namespaces
    }
