"""A blocking WebSocket over a TLS socket, in one thread.

The synchronous client of `websockets` reads in a thread of its own, and one TLS connection must not
be read and written at the same time; so this drives the library's protocol without I/O.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

if TYPE_CHECKING:
    import ssl

    from websockets.protocol import Event


class WebSocket:
    """The client's end; `websockets.exceptions.InvalidHandshake` when the service refuses it."""

    def __init__(self, tls: ssl.SSLSocket, address: str, subprotocol: str) -> None:
        self._tls = tls
        self._events: deque[Event] = deque()
        self._protocol = ClientProtocol(
            # Over a socket that already speaks TLS, so the address says ws: rather than wss:.
            parse_uri(f"ws://{address}"),
            subprotocols=[Subprotocol(subprotocol)],
        )
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._event()
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc

    @property
    def subprotocol(self) -> str | None:
        return self._protocol.subprotocol

    def send(self, data: bytes) -> None:
        self._protocol.send_binary(data)
        self._flush()

    def receive(self) -> bytes:
        """Return the next piece of a binary message, b"" once the service has closed."""
        while (frame := self._event()) is not None:
            assert isinstance(frame, Frame)
            assert frame.opcode is not Opcode.TEXT, "MQTT travels in binary frames"
            if frame.opcode in {Opcode.BINARY, Opcode.CONT} and frame.data:
                return bytes(frame.data)
        return b""

    def close(self) -> None:
        """Say goodbye, without waiting for an answer."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._flush()

    def _event(self) -> Event | None:
        while not self._events:
            if self._protocol.state is State.CLOSED:
                return None
            data = self._tls.recv(65_536)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            self._events.extend(self._protocol.events_received())
            self._flush()
            if not data and not self._events:
                return None
        return self._events.popleft()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            # The library half-closes with an empty piece; TLS is closed by its owner.
            if data:
                self._tls.sendall(data)
