"""The Docker Engine's API, in HTTP: enough of it for the calls of a module runtime.

It takes a tenth of the memory of a general client. A call has a connection of its own: the engine
is on this machine, and mostly behind a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import urlencode, urlsplit

import httptools
import msgspec

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

CONNECT_S: Final = 10.0
ANSWER_S: Final = 120.0
"""An engine that is well answers in milliseconds; one on a busy flash card may take seconds."""
MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of an answer that is read as a whole."""
MAX_HEAD: Final = 64 * 1024
"""Bytes of status line and headers."""

_AS_IT_WAS: Final = 304
"""Of a start or a stop that changes nothing."""
_READ: Final = 64 * 1024
_HOST: Final = "docker"
"""Named where there is none to name, as the engine's own clients do."""


class ApiError(Exception):
    """The engine refuses.

    Attributes:
        message: its own words.
        status: its status, 300 or more.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@final
class EngineApi:
    """Calls one engine. Nothing is connected between calls.

    Args:
        uri: `unix:///path/of.sock` or `http://host:port`.
        answer_s: for a call, where nothing else is said.
    """

    def __init__(self, uri: str, answer_s: float = ANSWER_S) -> None:
        self._uri = uri
        self.answer_s = answer_s
        self._version = ""

    def forget_version(self) -> None:
        """Ask for the version of the API anew: the engine that comes back may be another one."""
        self._version = ""

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        answer_s: float | None = None,
    ) -> Any:
        """Make a call and return its answer, read as JSON; `None` where it has no content.

        Args:
            method: of HTTP.
            path: without the version, encoded.
            query: its parameters.
            body: sent as JSON; `None` for none.
            answer_s: for the whole call; `None` for the usual.

        Raises:
            ApiError: the engine refuses.
            OSError: it does not answer (`TimeoutError`: in time), or not in HTTP.
        """
        content = bytearray()
        async with (
            asyncio.timeout(answer_s or self.answer_s),
            self.stream(method, path, query, body) as chunks,
        ):
            async for chunk in chunks:
                content += chunk
                if len(content) > MAX_BODY:
                    raise ConnectionError("the answer is too long")
        return _read(content) if content else None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Make a call and yield the content of its answer as it comes, for as long as it does.

        Args:
            method: of HTTP.
            path: without the version, encoded.
            query: its parameters.
            body: sent as JSON; `None` for none.
            headers: further ones.

        Raises:
            ApiError, OSError: see `ask`.
        """
        if not self._version:
            async with (
                asyncio.timeout(self.answer_s),
                self._call("GET", "/version", None, None, {}) as found,
            ):
                self._version = str(_read(b"".join([chunk async for chunk in found]))["ApiVersion"])
        target = f"/v{self._version}{path}"
        async with self._call(method, target, query, body, headers or {}) as chunks:
            yield chunks

    @contextlib.asynccontextmanager
    async def _call(
        self,
        method: str,
        target: str,
        query: Mapping[str, str] | None,
        body: Any,
        headers: Mapping[str, str],
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if query:
            target = f"{target}?{urlencode(query)}"
        data = _encode(method, target, urlsplit(self._uri).netloc or _HOST, headers, body)
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await self._connect()
        try:
            writer.write(data)
            answer = _Answer(reader)
            await answer.head()
            if answer.status >= 300 and answer.status != _AS_IT_WAS:
                text = b"".join([chunk async for chunk in answer.content()])
                raise ApiError(_error_text(text, answer.reason), answer.status)
            async with contextlib.aclosing(answer.content()) as content:
                yield content
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._uri)
        if parts.scheme == "unix":
            return await asyncio.open_unix_connection(parts.path)
        return await asyncio.open_connection(parts.hostname, parts.port or 80)


@final
class _Answer:
    """One answer as it comes. Implements what `httptools` calls, too."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._has_end = False
        self._head_done = self._done = False
        self.reason = ""

    @property
    def status(self) -> int:
        """What it says first."""
        return int(self._parser.get_status_code())

    async def head(self) -> None:
        """Return when the headers have come."""
        seen = 0
        while not self._head_done:
            seen += await self._more()
            if seen > MAX_HEAD and not self._head_done:
                raise ConnectionError("the answer's headers are too long")

    async def content(self) -> AsyncGenerator[bytes, None]:
        """Yield the content."""
        while True:
            chunks, self._chunks = self._chunks, []
            for chunk in chunks:
                yield chunk
            if self._done:
                return
            await self._more()

    async def _more(self) -> int:
        data = await self._reader.read(_READ)
        if not data:
            if not self._head_done or self._has_end:
                raise ConnectionError("the connection was closed within the answer")
            self._done = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise ConnectionError("the answer is no HTTP") from None
        return len(data)

    # What httptools calls.

    def on_status(self, status: bytes) -> None:
        """Keep the words beside the number."""
        self.reason += status.decode("latin-1")

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Note whether it will be told where the content ends."""
        self._has_end |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """Note that the content begins."""
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        """Keep content."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """Note the end."""
        self._done = True


def _encode(method: str, target: str, host: str, headers: Mapping[str, str], body: Any) -> bytes:
    content = b"" if body is None else msgspec.json.encode(body)
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append("Content-Type: application/json")
    if method != "GET":
        lines.append(f"Content-Length: {len(content)}")
    if any(character in line for line in lines for character in "\r\n\0"):
        raise ConnectionError("a call has lines that HTTP cannot carry")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def _read(content: bytes | bytearray) -> Any:
    try:
        return foreign_json.decode(bytes(content))
    except ForeignJsonError:
        raise ConnectionError("the answer is no JSON") from None


def _error_text(content: bytes, reason: str) -> str:
    try:
        return str(foreign_json.decode(content, dict[str, Any])["message"])
    except (ForeignJsonError, KeyError):
        return reason
