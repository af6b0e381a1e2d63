"""A blocking MQTT 3.1.1 client that does exactly what it is told, and what it says is raw.

It adds nothing of its own: no retries, no pings, no subscriptions.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

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
from support.raw_client import PATIENCE_S, RawClient
from support.secrets import CLOCK

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Packet
    from support.certificates import ClientCertificate
    from support.instance import Instance

T = TypeVar("T")


class MqttClient(RawClient):
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
        super().__init__(
            instance,
            host,
            instance.place.mqtt_port,
            websocket=None if websocket is None else (f"/$iothub/websocket{query}", websocket),
            certificate=certificate,
        )
        if self._websocket is not None:
            self.subprotocol = self._websocket.subprotocol

    # Packets.

    def send(self, packet: Packet) -> None:
        self.send_bytes(codec.encode(packet))

    def next_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def receive(self, timeout_s: float = PATIENCE_S) -> Packet | None:
        """Return the next packet, None once the service has closed the connection."""
        end = CLOCK.monotonic() + timeout_s
        while not self._inbox:
            data = self._read(end - CLOCK.monotonic())
            if not data:
                return None
            self._inbox.extend(self._decoder.feed(data))
        return self._inbox.popleft()

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
