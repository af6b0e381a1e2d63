"""HTTPS requests on the connections of a `Dialler`: enough for the APIs that devices call.

It takes a fraction of the memory of a general client, and goes through the same TLS, proxies and
addresses as everything else that we dial. Answers are bounded, redirections are the caller's
business, and there are no cookies.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, cast, final

import httptools
import msgspec

from muster.net.dial import Dialler
from muster.net.stream import Limits

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from muster.net.tunnel import Proxy

LIMITS: Final = Limits(handshake_s=30.0, first_byte_s=120.0, write_stall_s=60.0)
MAX_HEAD: Final = 64 * 1024
"""Bytes of status line and headers."""
IDLE_S: Final = 15.0
"""How long a connection is kept for the next request."""

_MAX_IDLE: Final = 2


class HttpError(ConnectionError):
    """The server's answer is not HTTP, too long, or not there."""


class TooLongError(HttpError):
    """The server's answer has more bytes than were allowed."""


class Response(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        status: 200 to 599.
        headers: names in small letters; of one that comes twice, the last.
        body: content.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send requests.

    Attributes:
        host: name, which the certificate must be for.
        port: likewise.
        address: to connect to; `None` where the name is to be resolved.
        proxy: to go through; `None` for none.
    """

    host: str
    port: int = 443
    address: str | None = None
    proxy: Proxy | None = None


@final
class HttpsClient:
    """Requests to one server. Belongs to the running event loop.

    Args:
        server: see there.
        context: of TLS.
        connect_s: for TCP, proxy and TLS together.
        answer_s: for a whole request.
        max_body: bytes of an answer.
    """

    def __init__(
        self,
        server: Server,
        context: ssl.SSLContext,
        *,
        connect_s: float = 20.0,
        answer_s: float = 60.0,
        max_body: int = 1024 * 1024,
    ) -> None:
        self._server = server
        self._dialler = Dialler(context, LIMITS)
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._max_body = max_body
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """Send a request and wait for its answer.

        Args:
            method: an idempotent one: where a kept connection turns out to be closed, the request
                is sent again.
            target: path and query, encoded.
            headers: further ones than `Host` and `Content-Length`.
            body: `None` for none.

        Raises:
            OSError: nobody answers (`TimeoutError`: in time), `HandshakeError` where TLS is not
                agreed on, `HttpError` for an answer that is none.
            ValueError: target or a header cannot be sent.
        """
        data = _encode(self._server, method, target, headers, body)
        async with asyncio.timeout(self._answer_s):
            while self._idle:
                connection = self._idle.pop()
                with contextlib.suppress(_ClosedError):
                    return await self._exchange(connection, data)
            return await self._exchange(await self._open(), data)

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            connection.close()
        await self._dialler.close(1.0)

    async def _open(self) -> _Connection:
        server = self._server
        connection = _Connection(self._max_body)
        stream: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                stream = await self._dialler.open(
                    server.address or server.host,
                    server.port,
                    connection,
                    server.host,
                    server.proxy,
                )
                await connection.made
        except BaseException:
            connection.made.cancel()
            if stream is not None:
                stream.abort()
            raise
        return connection

    async def _exchange(self, connection: _Connection, data: bytes) -> Response:
        try:
            answer = await connection.exchange(data)
        except BaseException:
            connection.abort()
            raise
        if connection.open and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
            connection.rest(self._idle)
        else:
            connection.close()
        return answer


class _ClosedError(HttpError):
    """The server had closed the connection before it has read the request."""


@final
class _Connection(asyncio.Protocol):
    """One connection; one request at a time. Implements what `httptools` calls, too."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self.made: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._seen = 0
        self._head_done = False
        self._reusable = False
        self._resting: asyncio.TimerHandle | None = None
        self._pool: list[_Connection] = []

    @property
    def open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and self._reusable

    async def exchange(self, data: bytes) -> Response:
        """Send a request and return the answer."""
        if self._resting is not None:
            self._resting.cancel()
        if self._transport is None:
            raise _ClosedError("the connection is closed")
        self._begin()
        self._answer = self._loop.create_future()
        self._transport.write(data)
        try:
            return await self._answer
        finally:
            self._answer = None

    def rest(self, pool: list[_Connection]) -> None:
        """Wait in a pool for another request, for a while."""
        self._pool = pool
        self._resting = self._loop.call_later(IDLE_S, self.close)

    def close(self) -> None:
        """Close, and leave the pool."""
        if self._resting is not None:
            self._resting.cancel()
        if self in self._pool:
            self._pool.remove(self)
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that it is open."""
        self._transport = cast("asyncio.Transport", transport)
        if self.made.done():
            self._transport.abort()  # given up meanwhile
        else:
            self.made.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._seen += len(data)
        if self._answer is None or self._answer.done():
            self.close()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # What a callback raises arrives as the cause of the parser's own error.
            cause = error.__context__
            self._fail(cause if isinstance(cause, HttpError) else HttpError("no HTTP"))
            return
        if not self._head_done and self._seen > MAX_HEAD:
            self._fail(TooLongError("the answer's headers are too long"))

    def eof_received(self) -> bool:
        """Note that the server sends no more: where no length was said, that is the end."""
        if self._head_done and not self._headers.keys() & {"content-length", "transfer-encoding"}:
            self._complete()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self.close()
        if not self.made.done():
            self.made.set_exception(exc or HttpError("closed by the server"))
        if self._seen == 0:
            self._fail(_ClosedError("the server closes the connection and answers nothing"))
        else:
            self._fail(HttpError("the server closes the connection within its answer"))

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note that the content begins."""
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        """Keep content."""
        self._body += body
        if len(self._body) > self._max_body:
            raise TooLongError("the answer is too long")

    def on_message_complete(self) -> None:
        """Take the answer, unless it only says that one is coming (1xx)."""
        if self._parser.get_status_code() < 200:
            self._headers, self._body, self._head_done = {}, bytearray(), False
        else:
            self._reusable = bool(self._parser.should_keep_alive())
            self._complete()

    # Within.

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._body, self._seen = {}, bytearray(), 0
        self._head_done = self._reusable = False

    def _complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            status = self._parser.get_status_code()
            self._answer.set_result(Response(status, self._headers, bytes(self._body)))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()


def _encode(
    server: Server, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    port = "" if server.port == 443 else f":{server.port}"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {server.host}{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None or method not in {"GET", "HEAD", "DELETE"}:
        lines.append(f"Content-Length: {len(body or b'')}")
    if any(character in line for line in lines for character in "\r\n\0"):
        raise ValueError("a request has lines that HTTP cannot carry")
    if " " in target or not target.isascii():
        raise ValueError("the target of a request is not encoded")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
