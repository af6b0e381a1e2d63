"""A blocking MQTT 3.1.1 client that does exactly what it is told, and what it says is raw.

It adds nothing of its own: no retries, no pings, no subscriptions.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, Self, TypeVar

from websockets.exceptions import InvalidState

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Will,
)
from support.https import open_tls
from support.secrets import CLOCK
from support.websocket import WebSocket

if TYPE_CHECKING:
    from types import TracebackType

    from muster.wire.mqtt.packets import Packet
    from support.certificates import ClientCertificate
    from support.instance import Instance

T = TypeVar("T")

PATIENCE_S = 20.0
"""How long an answer may take before the test gives up. Never what a test measures."""


class MqttClient:
    """One connection: TLS on the MQTT port, or a WebSocket on the HTTPS port."""

    def __init__(
        self,
        instance: Instance,
        host: str,
        *,
        websocket: str | None = None,
        query: str = "",
        certificate: ClientCertificate | None = None,
    ) -> None:
        """Connect to `host`; `websocket` is the sub-protocol to offer, as it is to be spelled."""
        self._decoder = codec.Decoder()
        self._inbox: deque[Packet] = deque()
        self._next_id = 0
        place, ca_file = instance.place, instance.ca_file
        if websocket is None:
            self._tls = open_tls(place, place.mqtt_port, ca_file, host, certificate)
            self._websocket = None
            return
        self._tls = open_tls(place, place.https_port, ca_file, host, certificate)
        address = f"{host}/$iothub/websocket{query}"
        try:
            self._websocket = WebSocket(self._tls, address, websocket)
        except BaseException:
            self._tls.close()
            raise
        self.subprotocol = self._websocket.subprotocol

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Close the connection without a word of MQTT."""
        if self._websocket is not None:
            with contextlib.suppress(OSError):
                self._websocket.close()
        self._tls.close()

    # Bytes and packets.

    def send_bytes(self, data: bytes) -> None:
        if self._websocket is not None:
            self._websocket.send(data)
        else:
            self._tls.sendall(data)

    def send(self, packet: Packet) -> None:
        self.send_bytes(codec.encode(packet))

    def next_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def receive(self, timeout_s: float = PATIENCE_S) -> Packet | None:
        """Return the next packet, None once the service has closed the connection."""
        end = CLOCK.monotonic() + timeout_s
        while not self._inbox:
            left = end - CLOCK.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing came in {timeout_s} s")
            data = self._read(left)
            if not data:
                return None
            self._inbox.extend(self._decoder.feed(data))
        return self._inbox.popleft()

    def _read(self, timeout_s: float) -> bytes:
        self._tls.settimeout(timeout_s)
        try:
            if self._websocket is not None:
                return self._websocket.receive()
            return self._tls.recv(65_536)
        except (ConnectionError, ssl.SSLError) as error:
            if isinstance(error, ssl.SSLError) and "timed out" in str(error):
                raise TimeoutError from error
            return b""

    def expect(self, kind: type[T], timeout_s: float = PATIENCE_S) -> T:
        """Return the next packet, which must be of this kind."""
        packet = self.receive(timeout_s)
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet!r}"
        return packet

    def expect_closed(self) -> None:
        """Read until the service closes the connection."""
        while self.receive() is not None:
            pass

    def is_open(self) -> bool:
        """Tell whether the service still answers a ping; drops nothing that came before it."""
        try:
            self.send(Pingreq())
        except (OSError, InvalidState):
            return False
        kept: list[Packet] = []
        while (packet := self.receive()) is not None:
            if isinstance(packet, Pingresp):
                self._inbox.extendleft(reversed(kept))
                return True
            kept.append(packet)
        return False

    # What clients do with packets.

    def connect(
        self,
        client_id: str,
        username: str | None,
        password: str | None,
        *,
        clean_session: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
        level: int = 4,
    ) -> Connack:
        secret = None if password is None else password.encode()
        packet = Connect(
            client_id,
            username,
            secret,
            clean_session=clean_session,
            keep_alive_s=keep_alive_s,
            will=will,
            protocol_level=level,
        )
        self.send(packet)
        return self.expect(Connack)

    def subscribe(self, *filters: str, qos: int = 1) -> list[int]:
        packet_id = self.next_id()
        self.send(Subscribe(packet_id, [(topic, qos) for topic in filters]))
        answer = self.expect(Suback)
        assert answer.packet_id == packet_id
        return list(answer.return_codes)

    def publish(self, topic: str, payload: bytes = b"", qos: int = 1) -> None:
        """Publish, and wait for the PUBACK when there is to be one."""
        packet_id = self.next_id() if qos else None
        self.send(Publish(topic, payload, qos, packet_id))
        if not qos:
            return
        kept: list[Packet] = []
        while not isinstance(packet := self.receive(), Puback):
            assert packet is not None, f"the service closed the connection instead of {topic}"
            kept.append(packet)
        assert packet.packet_id == packet_id
        self._inbox.extendleft(reversed(kept))

    def answer(self) -> Publish:
        """Return the next PUBLISH from the service and acknowledge it as asked."""
        packet = self.expect(Publish)
        if packet.qos:
            assert packet.packet_id is not None
            self.send(Puback(packet.packet_id))
        return packet

    def disconnect(self) -> None:
        self.send(Disconnect())
        self.expect_closed()
