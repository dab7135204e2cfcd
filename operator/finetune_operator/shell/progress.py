"""Reads how far running pods are: GET /progress of each at an interval that grows with their number.

A pod's answer is data from a stranger: bounded, validated, and about this very job, or it is ignored.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import aiohttp
import structlog
from pydantic import ValidationError

from finetune_api.contract import ProgressReport
from finetune_operator.core.actions import ProgressTarget
from finetune_operator.core.identity import uid_of
from finetune_operator.core.observed import Manifest
from finetune_operator.shell.cluster import Cluster, ReadLimits
from finetune_operator.shell.connection import read_at_most
from finetune_operator.shell.errors import ApiError, OversizeError

log = structlog.get_logger()

PATH = "/progress"
SIZE_LIMIT = 64 * 1024
"""Bytes of one report."""
STARTUP_SECONDS = 60.0
"""A pod that does not answer this soon after its container started is no news: Python is importing."""
COMPLAINT_SECONDS = 60.0
"""Time between two log lines about one pod whose reports are of no use."""

Access = Literal["auto", "direct", "proxy"]
ReadPod = Callable[[str, ProgressTarget], Awaitable[bytes]]
"""Body of GET /progress of a pod in a namespace; UnreadableError without one."""


class UnreadableError(Exception):
    """The pod gave no report."""


class PodReader:
    """Reads pods at their own address, or through the API server's proxy where that address cannot be reached."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession, access: Access, seconds: float) -> None:
        self._cluster = cluster
        self._session = session
        self._access = access
        self._limits = ReadLimits(seconds, SIZE_LIMIT)
        self._unreachable: set[str] = set()

    async def read(self, namespace: str, target: ProgressTarget) -> bytes:
        """The body of the pod's report."""
        if self._access == "proxy" or target.pod_ip in self._unreachable:
            return await self._through_proxy(namespace, target)
        try:
            return await self._direct(target)
        except UnreadableError:
            if self._access == "direct":
                raise
        body = await self._through_proxy(namespace, target)
        self._unreachable.add(target.pod_ip)
        return body

    def forget(self, target: ProgressTarget) -> None:
        """The pod is no longer followed; its address may become another's."""
        self._unreachable.discard(target.pod_ip)

    async def _direct(self, target: ProgressTarget) -> bytes:
        host = f"[{target.pod_ip}]" if ":" in target.pod_ip else target.pod_ip
        timeout = aiohttp.ClientTimeout(total=self._limits.seconds)
        try:
            url = f"http://{host}:{target.port}{PATH}"
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                body = await read_at_most(response, self._limits.size)
                if response.status == 200:
                    return body
                raise UnreadableError(f"HTTP {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, OversizeError) as error:
            raise UnreadableError(repr(error)) from error

    async def _through_proxy(self, namespace: str, target: ProgressTarget) -> bytes:
        try:
            return await self._cluster.read_pod(namespace, target.pod_name, target.port, PATH, self._limits)
        except (ApiError, OversizeError) as error:
            raise UnreadableError(str(error)) from error


@dataclass
class _Followed:
    target: ProgressTarget
    task: asyncio.Task[None]
    since: float
    report: ProgressReport | None = None
    complained_at: float = float("-inf")


class ProgressReader:
    """Follows at most one pod per job and remembers what it said last."""

    def __init__(
        self,
        reader: PodReader,
        *,
        interval: float,
        max_rate: float,
        concurrency: int,
        startup: float = STARTUP_SECONDS,
        changed: Callable[[str], None],
        count: Callable[[str], None] = lambda _result: None,
    ) -> None:
        self._reader = reader
        self._interval = interval
        self._max_rate = max_rate
        self._startup = startup
        self._slots = asyncio.Semaphore(concurrency)
        self._changed = changed
        self._count = count
        self._followed: dict[str, _Followed] = {}

    @property
    def interval(self) -> float:
        """Seconds between two readings of one pod, so that all together stay below the highest rate."""
        return max(self._interval, len(self._followed) / self._max_rate)

    def report(self, uid: str) -> ProgressReport | None:
        """What the followed pod of a job said last."""
        followed = self._followed.get(uid)
        return followed.report if followed else None

    def follow(self, job: Manifest, target: ProgressTarget | None) -> None:
        """Read from this pod from now on, or from none."""
        uid = uid_of(job)
        followed = self._followed.get(uid)
        if followed is not None and followed.target == target:
            return
        self.forget(uid)
        if target is not None:
            namespace = job["metadata"]["namespace"]
            task = asyncio.create_task(self._follow(uid, namespace, target), name=f"progress of {uid}")
            self._followed[uid] = _Followed(target, task, asyncio.get_running_loop().time())

    def forget(self, uid: str) -> None:
        """Stop reading for a job."""
        if followed := self._followed.pop(uid, None):
            followed.task.cancel()
            self._reader.forget(followed.target)

    def forget_all(self) -> None:
        """Stop reading."""
        for uid in [*self._followed]:
            self.forget(uid)

    async def _follow(self, uid: str, namespace: str, target: ProgressTarget) -> None:
        delay = random.uniform(0.0, self.interval)  # noqa: S311 - spreads load, protects nothing
        while True:
            await asyncio.sleep(delay)
            await self._read_once(uid, namespace, target)
            delay = self.interval * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, protects nothing

    async def _read_once(self, uid: str, namespace: str, target: ProgressTarget) -> None:
        try:
            async with self._slots:
                body = await self._reader.read(namespace, target)
        except UnreadableError as error:
            self._complain(uid, target, "unreachable", str(error))
            return
        try:
            report = ProgressReport.model_validate_json(body)
        except ValidationError as error:
            self._complain(uid, target, "invalid", str(error)[:512])
            return
        self._take(uid, target, report)

    def _take(self, uid: str, target: ProgressTarget, report: ProgressReport) -> None:
        if report.job_uid != uid:
            self._complain(uid, target, "foreign", f"the report is about job {report.job_uid[:64]}")
            return
        self._count("success")
        followed = self._followed.get(uid)
        if followed is not None and followed.report != report:
            followed.report = report
            self._changed(uid)

    def _complain(self, uid: str, target: ProgressTarget, result: str, why: str) -> None:
        self._count(result)
        followed = self._followed.get(uid)
        now = asyncio.get_running_loop().time()
        if followed is None or (result == "unreachable" and now - followed.since < self._startup):
            return
        if now - followed.complained_at >= COMPLAINT_SECONDS:
            followed.complained_at = now
            log.warning("cannot read progress", uid=uid, pod=target.pod_name, result=result, error=why)
