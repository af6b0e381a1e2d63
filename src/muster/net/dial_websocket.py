"""A WebSocket that we open, as the transport of another protocol: the other end of `websocket.py`.

It stands between the TLS connection and the protocol that is carried: `Dialler.open` takes it for
the protocol, and the protocol takes it for its transport.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast, final

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from muster.net.dial import HandshakeError

if TYPE_CHECKING:
    from websockets.protocol import Event

_MAX_FRAME: Final = 1024 * 1024
"""Bytes that a frame or a message of the server may have: four times the largest MQTT message."""
_NORMAL_CLOSURE: Final = 1000


class UpgradeError(HandshakeError):
    """The server does not open a WebSocket, or not the one that was asked for."""

    layer = "websocket"


@final
class WebSocketLine(asyncio.Transport, asyncio.Protocol):
    """One WebSocket.

    The inner protocol's `connection_made` comes after the upgrade; its `connection_lost` comes in
    any case, with an `UpgradeError` where there was no upgrade.

    Args:
        inner: what is carried.
        host: name of the server, as its `Host` header says it.
        port: likewise.
        path: `/$iothub/websocket`.
        subprotocol: that says what is carried: `mqtt`.
    """

    __slots__ = ("_closing", "_inner", "_open", "_raw", "_refusal", "_ws")

    def __init__(
        self, inner: asyncio.Protocol, host: str, port: int, path: str, subprotocol: str
    ) -> None:
        self._inner = inner
        self._raw: asyncio.Transport | None = None
        self._ws = ClientProtocol(
            WebSocketURI(secure=True, host=host, port=port, path=path, query=""),
            subprotocols=[Subprotocol(subprotocol)],
            max_size=_MAX_FRAME,
        )
        self._open = False
        self._closing = False
        self._refusal: Exception | None = None

    # The protocol of the TLS connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._raw = cast("asyncio.Transport", transport)
        self._ws.send_request(self._ws.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand on what frames carry; pings are answered on the way."""
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            self._take(event)
        self._flush()
        if self._ws.state is State.CLOSED or self._ws.close_expected():
            self._hang_up()

    def eof_received(self) -> bool:
        """Note that the server sends no more; the connection is closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the inner protocol."""
        self._closing = True
        if not self._open and exc is None:
            exc = self._refusal or UpgradeError("closed by the server")
        self._raw = None
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on."""
        if self._open:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        if self._open:
            self._inner.resume_writing()

    # The transport of the inner protocol.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a binary frame."""
        if not self._closing and self._ws.state is State.OPEN:
            self._ws.send_binary(bytes(data))
            self._flush()

    def close(self) -> None:
        """Say goodbye, then close."""
        if self._closing:
            return
        if self._ws.state is State.OPEN:
            self._ws.send_close(_NORMAL_CLOSURE)
            self._flush()
        self._hang_up()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        """Return whether it is closed, or about to be."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that are not sent."""
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the TLS connection's."""
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    # Within.

    def _take(self, event: Event) -> None:
        if isinstance(event, Response):
            self._answered(event)
        elif isinstance(event, Frame) and not self._closing:
            if event.opcode in {Opcode.BINARY, Opcode.CONT}:
                self._inner.data_received(bytes(event.data))
            elif event.opcode is Opcode.TEXT:
                self._ws.fail(1003, "text frame")

    def _answered(self, response: Response) -> None:
        refusal = self._ws.handshake_exc
        if refusal is None and self._ws.subprotocol is None:
            refusal = WebSocketException("no sub-protocol")
        if refusal is None:
            self._open = True
            self._inner.connection_made(self)
            return
        self._refusal = UpgradeError(f"no WebSocket: HTTP {response.status_code}, {refusal}")
        self._hang_up()

    def _flush(self) -> None:
        if self._raw is None:
            return
        for data in self._ws.data_to_send():
            if data:
                self._raw.write(data)
            else:
                self._hang_up()

    def _hang_up(self) -> None:
        self._closing = True
        if self._raw is not None:
            # Not from within its own delivery of data.
            asyncio.get_running_loop().call_soon(partial(_close, self._raw))


def _close(transport: asyncio.Transport) -> None:
    transport.close()
