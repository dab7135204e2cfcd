"""Compares the cache with the API server, now and then and after a watch began anew: what a watch missed is found here.

kopf tells nobody about objects that vanished between two of its lists; this does.
"""

import asyncio
from collections.abc import Callable

import structlog

from finetune_operator.shell.cluster import Cluster
from finetune_operator.shell.errors import ApiError
from finetune_operator.shell.kinds import WATCHED, Kind, selector_of
from finetune_operator.shell.store import Store
from finetune_operator.shell.workqueue import backoff

log = structlog.get_logger()

SETTLE_SECONDS = 2.0
"""Watches that begin anew together are followed by one comparison, once they have read most of their lists."""


class Resync:
    """Keeps the cache honest."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        namespaces: tuple[str | None, ...],
        interval: float,
        changed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._namespaces = namespaces
        self._interval = interval
        self._changed = changed
        self._kinds: tuple[Kind, ...] = WATCHED
        self._soon = asyncio.Event()

    def add(self, kind: Kind) -> None:
        """Compare one more kind."""
        self._kinds = (*self._kinds, kind)

    def soon(self) -> None:
        """Compare shortly instead of at the next interval."""
        self._soon.set()

    async def run(self) -> None:
        """Compare for ever."""
        failures = 0
        while True:
            await self._wait(backoff(failures) if failures else self._interval)
            try:
                await self.once()
                failures = 0
            except ApiError as error:
                failures += 1
                log.warning("cannot compare the cache with the API server", error=str(error))

    async def once(self) -> None:
        """Compare everything; jobs about which the cache was wrong are worked on."""
        self._store.age()
        for namespace in self._namespaces:
            for kind in self._kinds:
                await self._compare(kind, namespace)

    async def _compare(self, kind: Kind, namespace: str | None) -> None:
        listing = await self._cluster.list_all(kind, namespace, selector_of(kind))
        for uid in self._store.sync(kind, namespace, listing):
            self._changed(uid)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._soon.wait(), seconds)
        except TimeoutError:
            return
        await asyncio.sleep(SETTLE_SECONDS)
        self._soon.clear()
