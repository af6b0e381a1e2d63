"""A hub that does what a test tells it to, on a TLS port: MQTT only."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from muster.wire.mqtt import codec
from muster.wire.mqtt.connection import ServerConnection
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RID = re.compile(r".*\?\$rid=([^&]+).*")


class Peer:
    """What the hub does; one for all its connections."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        """Every connection there was."""
        self.connack = 0
        self.acknowledging = True
        self.ponging = True
        self.mishap: Callable[[], str] = lambda: ""
        """Asked with each PUBLISH: `drop` the connection, `ignore` it, or neither."""
        self.twin: tuple[int, bytes] | None = (200, b'{"desired":{},"reported":{}}')

    @property
    def line(self) -> Line:
        """The last connection."""
        return self.lines[-1]

    @property
    def telemetry(self) -> list[bytes]:
        """What came, in order, over all connections."""
        return [
            packet.payload
            for line in self.lines
            for packet in line.published
            if "/messages/events/" in packet.topic
        ]

    def make_line(self) -> Line:
        self.lines.append(Line(self))
        return self.line


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._connection = ServerConnection()
        self.transport: asyncio.Transport | None = None
        self.connect: Connect | None = None
        self.subscribed: dict[str, int] = {}
        self.published: list[Publish] = []
        self.acknowledged: list[int] = []
        self.said_goodbye = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def say(self, packet: Packet) -> None:
        self.write(codec.encode(packet))

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def drop(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def acknowledge(self, count: int) -> None:
        """Acknowledge what came first and is not acknowledged yet."""
        for packet in self.published[:count]:
            assert packet.packet_id is not None
            self.say(Puback(packet.packet_id))
        del self.published[:count]

    def data_received(self, data: bytes) -> None:
        for packet in self._connection.receive(data):
            if isinstance(packet, Connect):
                self.connect = packet
                self.say(Connack(self._peer.connack))
            elif isinstance(packet, Subscribe | Unsubscribe):
                self._subscribe(packet)
            elif isinstance(packet, Puback):
                self.acknowledged.append(packet.packet_id)
            elif isinstance(packet, Publish):
                self._publish(packet)
            elif isinstance(packet, Pingreq):
                if self._peer.ponging:
                    self.say(Pingresp())
            elif isinstance(packet, Disconnect):
                self.said_goodbye = True

    def _subscribe(self, packet: Subscribe | Unsubscribe) -> None:
        if isinstance(packet, Subscribe):
            self.subscribed.update(packet.filters)
            self.say(Suback(packet.packet_id, [qos for _, qos in packet.filters]))
            return
        for name in packet.filters:
            del self.subscribed[name]
        self.say(Unsuback(packet.packet_id))

    def _publish(self, packet: Publish) -> None:
        self.published.append(packet)
        mishap = self._peer.mishap()
        if mishap == "drop":
            self.drop()
        if mishap:
            return
        if packet.packet_id is not None and self._peer.acknowledging:
            self.say(Puback(packet.packet_id))
        if "/twin/" in packet.topic and self._peer.twin is not None:
            found = RID.fullmatch(packet.topic)
            assert found is not None
            status, body = self._peer.twin
            self.say(Publish(f"$iothub/twin/res/{status}/?$rid={found[1]}", body))

    # What the hub says of itself.

    def patch(self, patch: Any, packet_id: int | None = None) -> None:
        topic = "$iothub/twin/PATCH/properties/desired/?$version=2"
        self.say(Publish(topic, json.dumps(patch).encode(), int(packet_id is not None), packet_id))

    def message(self, body: bytes, packet_id: int) -> None:
        topic = "devices/d1/messages/devicebound/%24.to=x&a=b"
        self.say(Publish(topic, body, 1, packet_id))

    def call(self, name: str, payload: bytes, request_id: str) -> None:
        self.say(Publish(f"$iothub/methods/POST/{name}/?$rid={request_id}", payload))

    def method_answers(self) -> list[tuple[str, bytes]]:
        return [
            (packet.topic, packet.payload)
            for packet in self.published
            if packet.topic.startswith("$iothub/methods/res/")
        ]
