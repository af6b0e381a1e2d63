"""HTTP/1.1 and WebSocket on a listener: uvicorn's protocol with guards against hostile peers.

uvicorn brings a fast, well-tested HTTP state machine but trusts that a proxy stands in front of it:
it bounds neither headers nor the time a request may take. That is added here, nothing is replaced.
The protocol runs on a `TlsStream` and on a plain `Stream` alike.
"""

from __future__ import annotations

import logging
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from muster.net.routing import HEADER_NAMES, TRANSPORT
from muster.net.stream import PEER_CERTIFICATE
from muster.net.timers import NO_SLOT, TimerWheel, running_wheel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send
    from websockets.frames import Frame
    from websockets.http11 import Request

    from muster.clock import Clock

_log = structlog.get_logger(__name__)

# uvicorn logs a line per bad request, WebSocket and exception. Peers must not fill our log, and
# what is worth a line is logged here.
_quiet: Final = logging.getLogger("muster.net.http.uvicorn")
_quiet.setLevel(logging.CRITICAL + 1)

# What is being received.
_IDLE: Final = 0
_HEADER: Final = 1
_BODY: Final = 2


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may take. Times in seconds, sizes in bytes.

    Attributes:
        header: size of the request line and all header fields.
        header_fields: number of header fields.
        header_s: time from the first byte of a request to the end of its header.
        request_s: time from the first byte of a request to the last of its body; a long body has a
            second more for each `body_rate` bytes of it that have come.
        body_rate: bytes a second.
        keep_alive_s: time between a response and the next request.
        pipelined: requests sent ahead of their responses.
        unread_body: bytes of a body accepted after the response is complete, so that a client that
            is still sending gets to read its error.
        websocket_message: size of a WebSocket message.
        websocket_fragments: frames one message may be split into.
    """

    header: int = 64 * 1024
    header_fields: int = 256
    header_s: float = 10.0
    request_s: float = 60.0
    body_rate: int = 16 * 1024
    keep_alive_s: int = 75
    pipelined: int = 100
    unread_body: int = 1024 * 1024
    websocket_message: int = 1024 * 1024
    websocket_fragments: int = 1024


def http_protocol_factory(
    app: ASGIApp, clock: Clock, limits: HttpLimits | None = None
) -> Callable[[], asyncio.Protocol]:
    """Return what makes the protocol of one HTTP connection, for `Listener.listen`.

    Args:
        app: an ASGI application for `http` and `websocket` scopes, such as `routing.Router`.
        clock: for the `Date` header.
        limits: what clients may take.
    """
    service = _Service(app, clock, limits or HttpLimits())
    return lambda: _HttpProtocol(service)


class _Service:
    """What all HTTP connections of a factory share."""

    __slots__ = ("_app", "_clock", "_second", "config", "limits", "state", "wheel")

    def __init__(self, app: ASGIApp, clock: Clock, limits: HttpLimits) -> None:
        self._app = app
        self._clock = clock
        self._second = 0
        self.limits = limits
        self.wheel = running_wheel()
        self.state = ServerState()
        self.config = Config(
            self._serve,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=limits.keep_alive_s,
            ws=_web_socket_class(limits),
            ws_max_size=limits.websocket_message,
            ws_per_message_deflate=False,
            # MQTT and AMQP have keep-alives of their own.
            ws_ping_interval=None,
        )
        self.config.load()

    def refresh_date(self) -> None:
        """Bring the `Date` header of responses up to the present second (RFC 9110 6.6.1)."""
        now = self._clock.time()
        if int(now) != self._second:
            self._second = int(now)
            self.state.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnected:
            return
        except Exception:
            _log.exception("application failed", type=scope["type"], path=scope["path"][:256])
            raise


class _HttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(self, service: _Service) -> None:
        super().__init__(service.config, service.state, {})
        self.logger = _quiet
        self.access_log = False
        self.timer_slot = NO_SLOT
        self._service = service
        self._limits = service.limits
        self._wheel: TimerWheel = service.wheel
        self._stage = _IDLE
        self._began = 0.0
        self._header_size = 0
        self._header_fed = 0
        self._host_given = False
        self._unread = 0
        self._body_size = 0
        self._refused: tuple[HTTPStatus, str] | None = None
        self._header_names: list[bytes] = []
        self._certificate: bytes | None = None

    # asyncio.Protocol

    # Narrower than what asyncio declares, as uvicorn's own are.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._certificate = transport.get_extra_info(PEER_CERTIFICATE)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wheel.stop(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        if self._stage == _HEADER:
            self._header_fed += len(data)
        super().data_received(data)
        if self._stage == _HEADER:
            if self._header_fed > self._limits.header:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The header is too large.")
        elif self._stage == _IDLE:
            self._await_next()

    # asyncio lets it say that the connection stays; uvicorn's has no result.
    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for a client that has asked and only waits for the answer."""
        cycle = self._unanswered()
        if cycle is None or cycle.more_body or cycle.response_started:
            return None
        cycle.keep_alive = False
        return True

    # Callbacks of the parser. What they raise comes back as `send_400_response`.

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._limits.pipelined:
            self._refuse_in_parser(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests at once.")
        super().on_message_begin()
        # The type of a scope knows the keys of the specification only, and these are our own.
        self._header_names = self.scope[HEADER_NAMES] = []  # type: ignore[typeddict-unknown-key]
        self.scope[PEER_CERTIFICATE] = self._certificate  # type: ignore[typeddict-unknown-key]
        self.scope[TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]
        self._stage = _HEADER
        self._header_size = 0
        self._header_fed = 0
        self._host_given = False
        self._unread = 0
        self._body_size = 0
        self._began = self.loop.time()
        if self.timer_slot == NO_SLOT:
            self._wheel.start(self, self._began + self._limits.header_s)

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_names.append(name)
        self._count_header(len(name) + len(value) + 4)
        if len(self.headers) >= self._limits.header_fields:
            self._refuse_in_parser(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "There are too many header fields."
            )
        if name.lower() == b"host":
            # RFC 9112, 3.2. Which hub is meant must not depend on who reads the request.
            if self._host_given:
                self._refuse_in_parser(HTTPStatus.BAD_REQUEST, "There are several Host fields.")
            self._host_given = True
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._service.refresh_date()
        super().on_headers_complete()
        self._stage = _BODY

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._unanswered() is None:
            self._unread += len(body)
            if self._unread > self._limits.unread_body:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stage = _IDLE
        super().on_message_complete()

    # uvicorn's own steps

    def handle_websocket_upgrade(self) -> None:
        self._wheel.stop(self)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        status, message = self._refused or (
            HTTPStatus.BAD_REQUEST,
            "The request is not valid HTTP.",
        )
        self._refuse(status, message)

    # Guards

    def timer_expired(self, now: float) -> float:
        """Enforce the deadlines of the header and of the whole request (`Timed`)."""
        if self._stage == _IDLE or self._refused is not None:
            return 0.0
        limits = self._limits
        allowed_s = limits.header_s
        if self._stage == _BODY:
            allowed_s = limits.request_s + self._body_size / limits.body_rate
        due = self._began + allowed_s
        if now < due:
            return due
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request took too long to arrive.")
        return 0.0

    def _await_next(self) -> None:
        """Close a connection on which nothing more comes.

        uvicorn starts this deadline after a response and ends it with any byte, also when that byte
        belongs to the body of a request that was answered early.
        """
        if (
            self.timeout_keep_alive_task is None
            and self._unanswered() is None
            and not self.transport.is_closing()
        ):
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _count_header(self, size: int) -> None:
        self._header_size += size
        if self._header_size > self._limits.header:
            self._refuse_in_parser(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The header is too large."
            )

    def _refuse_in_parser(self, status: HTTPStatus, message: str) -> None:
        """Stop the parser; `send_400_response` is called by uvicorn when it has stopped."""
        self._refused = (status, message)
        raise _RefusedError

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer with an error if that is still possible, then close."""
        self._refused = (status, message)
        if self.transport.is_closing():
            return
        cycle = self._unanswered()
        if cycle is None:
            # In mid-body the answer has gone out already.
            if self._stage != _BODY:
                self._write_error(status, message)
        elif self._stage == _BODY:
            if not self.pipeline and not cycle.response_started:
                self._write_error(status, message)
            # The application learns of it as of a client that went away.
            cycle.disconnected = True
            cycle.message_event.set()
        else:
            # Earlier requests are still being answered: that first.
            cycle.keep_alive = False
            return
        self.transport.close()

    def _unanswered(self) -> RequestResponseCycle | None:
        """Return the last request when its response is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _write_error(self, status: HTTPStatus, message: str) -> None:
        self._service.refresh_date()
        body = msgspec.json.encode({"Message": message})
        head = [f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()]
        for name, value in self.server_state.default_headers:
            head.append(b"%s: %s\r\n" % (name, value))
        head.append(
            b"content-type: application/json; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(b"".join(head) + body)


class _RefusedError(Exception):
    """Carries a refusal through the parser's C code."""


def _web_socket_class(limits: HttpLimits) -> type[asyncio.Protocol]:
    """Return uvicorn's WebSocket protocol with a bound on the number of fragments."""

    class _WebSocketProtocol(WebSocketsSansIOProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.logger = _quiet
            self.conn.logger = _quiet

        def handle_connect(self, event: Request) -> None:
            super().handle_connect(event)
            # The application begins in a task, so not before this.
            if self.handshake_initiated and hasattr(self, "scope"):
                certificate = self.transport.get_extra_info(PEER_CERTIFICATE)
                # A key of our own; see above.
                self.scope[PEER_CERTIFICATE] = certificate  # type: ignore[typeddict-unknown-key]

        def handle_cont(self, event: Frame) -> None:
            # The size of a message is bounded by its codec, but empty fragments have none.
            if len(self.frames) < limits.websocket_fragments:
                super().handle_cont(event)
                return
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()

    return _WebSocketProtocol
