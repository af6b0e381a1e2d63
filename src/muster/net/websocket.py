"""MQTT and AMQP over WebSockets: `/$iothub/websocket`, for the hub and for provisioning alike.

Sources: hub-device.md 0.9 and 1.1, dps.md 1.3 and 1.4. The sub-protocol tells what is carried:
`mqtt`, or `AMQPWSB10`. The C SDK spells it `MQTT`; it is compared without case and echoed as it was
offered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl

from muster.net.routing import refuse_websocket
from muster.net.stream import PEER_CERTIFICATE
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

WEBSOCKET_PATH: Final = "/$iothub/websocket"
STREAM_WEBSOCKET_PATH: Final = "/$servicebus/websocket"
"""What the Event Hubs SDKs call (hub-service.md 0.1); AMQP only."""
MQTT_SUBPROTOCOL: Final = "mqtt"
AMQP_SUBPROTOCOL: Final = "AMQPWSB10"

_NO_CERTIFICATE: Final = "iothub-no-client-cert"
"""Parameter of the query (hub-device.md 1.1)."""
_HIGH_WATER: Final = 64 * 1024
_FRAME: Final = 64 * 1024
"""The most one frame carries. What is carried is a stream: a packet may span frames (MQTT 3.1.1
section 6)."""

_NORMAL_CLOSURE: Final = 1000
_UNSUPPORTED_DATA: Final = 1003
_SERVICE_RESTART: Final = 1012
"""What the server itself says on shutdown."""


class Carried(Protocol):
    """What a WebSocket can carry: the protocol of a connection, as the listener's ports have it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""

    def shutdown(self) -> None:
        """Close because the service stops."""

    def close(self, reason: str) -> None:
        """Close because the client broke a rule of WebSockets."""


class ProtocolWebSocket:
    """An ASGI endpoint for WebSockets that carry other protocols.

    Args:
        protocols: by sub-protocol, what makes the protocol of one connection, such as
            `mqtt_protocol_factory(acceptor, transport="mqtt-ws")`.
    """

    __slots__ = ("_protocols", "_refusal")

    def __init__(self, protocols: Mapping[str, Callable[[], Carried]]) -> None:
        self._protocols = {name.lower(): factory for name, factory in protocols.items()}
        self._refusal = f"The sub-protocol must be {' or '.join(protocols)}."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket (ASGI)."""
        await receive()
        offered: list[str] = scope["subprotocols"]
        chosen = next((name for name in offered if name.lower() in self._protocols), None)
        if chosen is None:
            await refuse_websocket(send, 400, self._refusal)
            return
        await send({"type": "websocket.accept", "subprotocol": chosen})
        frames = _Frames(self._protocols[chosen.lower()](), scope, send)
        sending = spawn(frames.run(), "websocket sender")
        try:
            await frames.receive_all(receive)
        except asyncio.CancelledError:
            if not frames.aborted:
                raise
        finally:
            frames.close()
            if frames.aborted:
                sending.cancel()
            await asyncio.wait([sending])


class _Frames(asyncio.Transport):
    """The transport of what is carried: what one turn writes is one binary frame."""

    def __init__(self, connection: Carried, scope: Scope, send: Send) -> None:
        super().__init__(
            {
                "peername": tuple(scope.get("client") or ("", 0)),
                PEER_CERTIFICATE: None if _disclaims(scope) else scope.get(PEER_CERTIFICATE),
            }
        )
        self._connection = connection
        self._send = send
        self._task = asyncio.current_task()
        self._pending: list[bytes] = []
        self._size = 0
        self._paused = False
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._closing = False
        self._close_code = _NORMAL_CLOSURE
        self.aborted = False
        connection.connection_made(self)

    async def receive_all(self, receive: Receive) -> None:
        """Feed the connection until either side closes."""
        connection = self._connection
        while True:
            await self._readable.wait()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                if message.get("code") == _SERVICE_RESTART:
                    connection.shutdown()
                else:
                    connection.eof_received()
                return
            data = message.get("bytes")
            if data is None:
                self._close_code = _UNSUPPORTED_DATA
                connection.close("text frame")
                return
            connection.data_received(data)

    async def run(self) -> None:
        """Send what is written, and the closing handshake in the end."""
        try:
            while not self._closing:
                await self._wake.wait()
                self._wake.clear()
                await self._send_pending()
            await self._send({"type": "websocket.close", "code": self._close_code})
        except OSError:
            # The client is gone; the receiving side is told.
            return

    # asyncio.Transport, as far as what is carried uses it

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` with what else is written in this turn."""
        if self._closing:
            return
        self._pending.append(bytes(data))
        self._size += len(data)
        self._wake.set()
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self._connection.pause_writing()

    def close(self) -> None:
        """Send what is pending, then close."""
        if not self._closing:
            self._closing = True
            self._readable.set()
            self._wake.set()
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        """Close at once and drop what is pending."""
        self._pending.clear()
        self.aborted = True
        self.close()
        if self._task is not None:
            # Ends the ASGI call, upon which the server closes the connection.
            self._task.cancel()

    def is_closing(self) -> bool:
        """Return whether `close` or `abort` was called."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that are not sent."""
        return self._size

    def pause_reading(self) -> None:
        """Stop receiving frames."""
        if not self._closing:
            self._readable.clear()

    def resume_reading(self) -> None:
        """Receive frames again."""
        self._readable.set()

    async def _send_pending(self) -> None:
        while self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            for start in range(0, len(data), _FRAME):
                frame = data[start : start + _FRAME]
                await self._send({"type": "websocket.send", "bytes": frame})
                self._size -= len(frame)
        if self._paused:
            self._paused = False
            self._connection.resume_writing()


def _disclaims(scope: Scope) -> bool:
    """Tell whether the client says that it has no certificate: one it presented is none then."""
    query = scope["query_string"].decode("latin-1")
    return any(
        name.lower() == _NO_CERTIFICATE and value.lower() == "true"
        for name, value in parse_qsl(query)
    )
