"""Which replica writes: the one that holds the Lease, for as long as it can prove it by its own clock.

The client's own election is not used: it takes local wall-clock times without a zone for the Lease, ends on a lost
connection, and cannot tell whether a Lease is still valid, which is asked here before every write.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from finetune_operator.core.observed import Manifest
from finetune_operator.shell.cluster import Cluster
from finetune_operator.shell.errors import ApiError, NotFoundError, NotLeaderError
from finetune_operator.shell.kinds import LEASE

log = structlog.get_logger()


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds; `retry` < `deadline` < `duration`."""

    duration: int = 15
    """Others wait so long after the last sign of life."""
    deadline: float = 10.0
    """The leader trusts its last renewal so long."""
    retry: float = 2.0
    """Between two attempts."""


class Election:
    """Gets the Lease, keeps it, gives it back."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        changed: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._changed = changed
        self._clock = clock
        self._valid_until = float("-inf")
        self._lease: Manifest | None = None
        self._seen_at = float("-inf")
        self._leads = False

    def leads(self) -> bool:
        """Whether the Lease is certainly ours at this moment."""
        return self._clock() < self._valid_until

    def fence(self) -> None:
        """Raise NotLeaderError unless this replica may write."""
        if not self.leads():
            raise NotLeaderError(f"{self._identity} does not hold the Lease {self._namespace}/{self._name}")

    async def run(self) -> None:
        """Try to get or renew the Lease for ever."""
        while True:
            await self.attempt()
            await asyncio.sleep(self._times.retry)

    async def attempt(self) -> None:
        """One try to get or renew the Lease."""
        asked_at = self._clock()
        try:
            ours = await self._acquire_or_renew()
            self._valid_until = asked_at + self._times.deadline if ours else float("-inf")
        except ApiError as error:
            self._lease = None
            log.warning("cannot get or renew the Lease", lease=self._name, error=str(error))
        self._announce()

    async def release(self) -> None:
        """Let another replica take over at once."""
        if not self.leads() or self._lease is None:
            return
        self._valid_until = float("-inf")
        self._announce()
        with contextlib.suppress(ApiError):
            await self._replace(self._lease, holderIdentity="", leaseDurationSeconds=1)

    def _announce(self) -> None:
        if self.leads() != self._leads:
            self._leads = self.leads()
            log.info("leading" if self._leads else "not leading", identity=self._identity, lease=self._name)
            self._changed(self._leads)

    async def _acquire_or_renew(self) -> bool:
        if self._lease is None or not self.leads():
            await self._look()
        if self._lease is None:
            self._lease = await self._cluster.create(self._new())
        elif self._holder() in ("", self._identity) or self._expired():
            self._lease = await self._replace(self._lease, **self._claim(self._lease))
        else:
            return False
        return True

    async def _look(self) -> None:
        """Read the Lease; its holder is alive when it changes while we look, whatever the clocks of others say."""
        try:
            lease = await self._cluster.get(LEASE, self._namespace, self._name)
        except NotFoundError:
            self._lease = None
            return
        if self._lease is None or _version(lease) != _version(self._lease):
            self._seen_at = self._clock()
        self._lease = lease

    def _holder(self) -> str:
        return str(((self._lease or {}).get("spec") or {}).get("holderIdentity") or "")

    def _expired(self) -> bool:
        spec = (self._lease or {}).get("spec") or {}
        return self._clock() >= self._seen_at + (spec.get("leaseDurationSeconds") or self._times.duration)

    def _claim(self, lease: Manifest) -> dict[str, Any]:
        spec = lease.get("spec") or {}
        claim = {"holderIdentity": self._identity, "leaseDurationSeconds": self._times.duration, "renewTime": _now()}
        if self._holder() == self._identity:
            return claim
        return {**claim, "acquireTime": claim["renewTime"], "leaseTransitions": (spec.get("leaseTransitions") or 0) + 1}

    def _new(self) -> Manifest:
        now = _now()
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._times.duration,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }

    async def _replace(self, lease: Manifest, **changes: object) -> Manifest:
        return await self._cluster.replace({**lease, "spec": {**(lease.get("spec") or {}), **changes}})


def _version(lease: Manifest) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
