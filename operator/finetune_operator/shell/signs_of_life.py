"""When each watch last tried or brought something, seen from the outside: kopf keeps bookmarks to itself.

A session for kopf that notes every request it starts and every piece of data it receives. It mends what kopf leaves
open (1.45.2): a watch that ends at once with nothing is begun again without a pause, and a session that is closed for a
new login ends the operator if another watch still reads from it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from finetune_operator.shell.workqueue import backoff

Note = Callable[[URL], None]
AT_ONCE_SECONDS = 1.0
"""A watch that ends sooner, and has brought nothing, is not worth beginning again at once."""
LONGEST_PAUSE = 30.0


class SignsOfLife:
    """Ages of the last attempt and of the last data, by the path of the watched collection."""

    def __init__(
        self,
        paths: dict[str, str],
        relisted: Callable[[str], None],
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._names: dict[str, str] = {}
        self._relisted = relisted
        self._clock = clock
        self._pause = pause
        self._in_vain: dict[str, int] = {}
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
        return {
            "trace_configs": [trace],
            "middlewares": [_survive_closing],
            "response_class": _noting(self._note_data),
        }

    async def _started(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        path = request.url.path
        if path not in self._tried:
            return
        if "watch" in request.url.query:
            await self._space_out(path)
        elif "continue" not in request.url.query:
            self._relisted(path)
        self._tried[path] = self._clock()

    async def _space_out(self, path: str) -> None:
        """Wait the longer the more watches in a row have ended at once in vain."""
        lasted = self._clock() - self._tried[path]
        in_vain = self._in_vain.get(path, 0) if lasted < AT_ONCE_SECONDS else 0
        if in_vain:
            await self._pause(backoff(in_vain, longest=LONGEST_PAUSE))
        self._in_vain[path] = in_vain + 1

    def _note_data(self, url: URL) -> None:
        if url.path in self._tried:
            self._tried[url.path] = self._heard[url.path] = self._clock()
            self._in_vain[url.path] = 0


async def _survive_closing(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A request that is on its way while its session is closed fails in aiohttp with an AssertionError (3.14)."""
    try:
        return await handler(request)
    except AssertionError as error:
        raise aiohttp.ClientConnectionError("the session was closed") from error


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
        try:
            async for chunk in self._reader.iter_chunked(size):
                self._note()
                yield chunk
        except RuntimeError as error:  # aiohttp: the session is closed
            raise aiohttp.ClientConnectionError(str(error)) from error
