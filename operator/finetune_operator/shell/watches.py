"""kopf's part: watch, reconnect, log in. Its handlers only store and enqueue, and it writes nothing on any object."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from finetune_operator.core.identity import uid_of
from finetune_operator.core.observed import Manifest
from finetune_operator.shell.connection import load_configuration, open_session
from finetune_operator.shell.kinds import WATCHED, Kind, selector_of
from finetune_operator.shell.signs_of_life import SignsOfLife
from finetune_operator.shell.store import Store

LONGEST_BACKOFF = 30.0


class Watches:
    """The registry and settings with which kopf runs."""

    def __init__(self, store: Store, changed: Callable[[str], None], signs: SignsOfLife) -> None:
        self._store = store
        self._changed = changed
        self._signs = signs
        self.registry = kopf.OperatorRegistry()
        self.ended = asyncio.Event()
        kopf.on.login(registry=self.registry)(self._login)
        kopf.on.cleanup(registry=self.registry)(self._on_end)
        for kind in WATCHED:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        """Watch one more kind; only before kopf runs."""
        kopf.on.event(group=kind.group, version=kind.version, plural=kind.plural, registry=self.registry)(
            self._on_event
        )

    async def _login(self, **_: object) -> kopf.AiohttpSession:
        configuration = await load_configuration()
        session = await open_session(configuration, self._signs.session_options())
        return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session)

    async def _on_end(self, **_: object) -> None:
        """kopf gives up, for instance because one watch died; its own end may hang on the others (measured, 1.45.2)."""
        self.ended.set()

    async def _on_event(self, event: Any, **_: object) -> None:  # noqa: ANN401 - kopf's own mapping
        self.take(event["type"], event["object"])

    def take(self, kind: str | None, obj: Manifest) -> None:
        """Store what an event says, and have its job worked on if that is news."""
        if kind == "DELETED":
            self._store.remove(obj["kind"], uid_of(obj), obj)
        elif not self._store.put(obj):
            return
        if uid := self._store.job_uid_of(obj):
            self._changed(uid)


class _EndlessBackoffs:
    """Seconds between attempts at a list or a watch: rising to half a minute, and never running out."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, protects nothing
            delay = min(LONGEST_BACKOFF, delay * 2)


class _NothingStored(kopf.DiffBaseStorage):
    """kopf compares versions of objects for handlers that we do not have; this spares the copies."""

    def build(self, **_: object) -> Any:  # noqa: ANN401 - kopf's own mapping
        return {}

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        raise AssertionError("kopf must write nothing on objects")


def kopf_settings() -> kopf.OperatorSettings:
    """Watches that notice their own death, survive the API server's, and leave objects alone."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NothingStored()
    settings.networking.error_backoffs = _EndlessBackoffs()
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 0.2  # an object's worker does nothing here that would be worth keeping
    settings.process.ultimate_exiting_timeout = None
    for kind in WATCHED:
        if selector := selector_of(kind):
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = selector
    return settings
