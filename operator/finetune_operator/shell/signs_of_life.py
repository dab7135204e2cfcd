"""When each watch last tried or brought something, seen from the outside: kopf keeps bookmarks to itself.

A session for kopf that notes every request it starts and every piece of data it receives.
"""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

Note = Callable[[URL], None]


class SignsOfLife:
    """Ages of the last attempt and of the last data, by the path of the watched collection."""

    def __init__(self, paths: dict[str, str], relisted: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._names: dict[str, str] = {}
        self._relisted = relisted
        self._clock = clock
        self._tried: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self.add(paths)

    def add(self, paths: dict[str, str]) -> None:
        """Expect more watches: path of the collection -> its name for people."""
        self._names |= paths
        self._tried |= dict.fromkeys(paths, self._clock())
        self._heard |= dict.fromkeys(paths, self._clock())

    def tried(self) -> dict[str, float]:
        """Seconds since each watch tried or brought something, by name."""
        return {self._names[path]: self._clock() - at for path, at in self._tried.items()}

    def heard(self) -> dict[str, float]:
        """Seconds since each watch brought something, by name."""
        return {self._names[path]: self._clock() - at for path, at in self._heard.items()}

    def session_options(self) -> dict[str, Any]:
        """Arguments of an aiohttp session whose traffic is noted here."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._started)
        return {"trace_configs": [trace], "response_class": _noting(self._note_data)}

    async def _started(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        path = request.url.path
        if path in self._tried:
            self._tried[path] = self._clock()
            if "watch" not in request.url.query and "continue" not in request.url.query:
                self._relisted(path)

    def _note_data(self, url: URL) -> None:
        if url.path in self._tried:
            self._tried[url.path] = self._heard[url.path] = self._clock()


def _noting(note: Note) -> type[aiohttp.ClientResponse]:
    class NotingResponse(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:  # noqa: ANN401 - a private type of aiohttp
            response = await super().start(connection)
            self.content = _Chunks(self.content, lambda: note(self.url))  # type: ignore[assignment]
            return response

    return NotingResponse


class _Chunks:
    """A stream reader that calls `note` for each piece of data."""

    def __init__(self, reader: aiohttp.StreamReader, note: Callable[[], None]) -> None:
        self._reader = reader
        self._note = note

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the reader has
        return getattr(self._reader, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        async for chunk in self._reader.iter_chunked(size):
            self._note()
            yield chunk
