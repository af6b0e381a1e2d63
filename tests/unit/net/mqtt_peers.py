"""An MQTT acceptor whose sessions remember what they are told, and a raw MQTT client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from muster.net.mqtt import Accepted, MqttPeer, Refused
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Publish
from unit.net.loopback import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.wire.mqtt.packets import Packet
    from unit.net.loopback import Reader, Writer

T = TypeVar("T")


class Session:
    """Answers QoS 1 telemetry, and does what a test tells it to."""

    def __init__(self, acceptor: Acceptor, connect: Connect, peer: MqttPeer) -> None:
        self.acceptor = acceptor
        self.connect = connect
        self.peer = peer
        self.events: list[str] = []
        self.packets: list[Packet] = []
        self.closings: list[tuple[bool, str]] = []

    def started(self) -> None:
        self.events.append("started")

    def received(self, packets: list[Packet]) -> None:
        self.events.append("received")
        self.packets += packets
        ids = [p.packet_id for p in packets if isinstance(p, Publish) and p.packet_id is not None]
        self.peer.write(codec.encode_pubacks(ids))
        for packet in packets:
            if isinstance(packet, Publish) and packet.topic in self.acceptor.on_topic:
                self.acceptor.on_topic[packet.topic](self)

    def closed(self, graceful: bool, reason: str) -> None:  # noqa: FBT001 - the port's signature
        self.events.append("closed")
        self.closings.append((graceful, reason))


class Acceptor:
    """Takes everybody but `refused`, after `gate` is open."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self.on_topic: dict[str, Callable[[Session], None]] = {}

    async def accept(self, connect: Connect, peer: MqttPeer) -> Accepted | Refused:
        self.asked += 1
        await self.gate.wait()
        if connect.client_id == "fault":
            raise ZeroDivisionError
        if connect.client_id == "refused":
            return Refused(5)
        if connect.client_id == "slowed":
            return Refused(3, delay_s=0.2)
        session = Session(self, connect, peer)
        self.sessions.append(session)
        return Accepted(session, session_present=not connect.clean_session)


class Client:
    """Sends what it is told and decodes what comes back."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = codec.Decoder()
        self._inbox: list[Packet] = []

    def send(self, *packets: Packet | bytes) -> None:
        self.writer.write(b"".join(p if isinstance(p, bytes) else codec.encode(p) for p in packets))

    async def receive(self, kind: type[T]) -> T:
        async with asyncio.timeout(PATIENCE_S):
            while not self._inbox:
                data = await self.reader.read(65_536)
                assert data, "the server closed the connection"
                self._inbox += self._decoder.feed(data)
        packet = self._inbox.pop(0)
        assert isinstance(packet, kind), packet
        return packet

    async def log_in(self, client_id: str = "d1", keep_alive_s: int = 60) -> None:
        self.send(Connect(client_id, keep_alive_s=keep_alive_s))
        assert (await self.receive(Connack)).return_code == 0

    async def ended(self) -> None:
        """Wait until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            while data := await self.reader.read(65_536):
                self._inbox += self._decoder.feed(data)
        assert not self._inbox


def telemetry(packet_id: int | None = 1, payload: bytes = b"{}", topic: str = "t") -> Publish:
    return Publish(topic, payload, qos=1 if packet_id else 0, packet_id=packet_id)
