"""A service that says what a test tells it to: provisioning and a hub on one MQTT port."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from typing import Any

from muster.auth import sas_token, symmetric_keys
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
)

GROUP_KEY = b"g" * 32
SCOPE = "0ne00000001"
HUB = "plant-a.example"
RID = re.compile(r".*\?\$rid=([^&]+).*")


class Peer:
    """What the service knows and does; one for all its connections."""

    def __init__(self) -> None:
        self.registered: list[str] = []
        self.lines: dict[str, Line] = {}
        """The open connections to the hub, by client ID."""
        self.connects: defaultdict[str, list[Connect]] = defaultdict(list)
        self.messages: defaultdict[str, list[Publish]] = defaultdict(list)
        self.reports: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.replies: defaultdict[str, list[Publish]] = defaultdict(list)
        self.goodbyes: list[str] = []
        self.desired: dict[str, Any] = {"$version": 1}
        self.reported: dict[str, Any] = {"$version": 1}
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        """Answers to the next registrations: status, and body."""
        self.barred = ""
        """Who is not enrolled."""
        self.connack = 0
        self.twin_status = 200
        self.acknowledging = True
        self.ponging = True

    def line(self) -> Line:
        return Line(self)


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._connection = ServerConnection()
        self._name = ""
        self._pending = ""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer.lines.get(self._name) is self:
            del self._peer.lines[self._name]

    def say(self, packet: Packet) -> None:
        assert self.transport is not None
        self.transport.write(codec.encode(packet))

    def drop(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        for packet in self._connection.receive(data):
            if isinstance(packet, Connect):
                self._connect(packet)
            elif isinstance(packet, Subscribe):
                self.say(Suback(packet.packet_id, [qos for _, qos in packet.filters]))
            elif isinstance(packet, Publish):
                if packet.packet_id is not None and self._peer.acknowledging:
                    self.say(Puback(packet.packet_id))
                self._publish(packet)
            elif isinstance(packet, Pingreq):
                if self._peer.ponging:
                    self.say(Pingresp())
            elif isinstance(packet, Disconnect) and self._name:
                self._peer.goodbyes.append(self._name)

    def _connect(self, packet: Connect) -> None:
        peer = self._peer
        username = packet.username or ""
        token = sas_token.parse((packet.password or b"").decode())
        key = symmetric_keys.derive(GROUP_KEY, packet.client_id.partition("/")[0])
        if username.startswith(SCOPE):
            assert username == f"{SCOPE}/registrations/{packet.client_id}/api-version=2019-03-31"
            assert token.resource == f"{SCOPE}/registrations/{packet.client_id}"
            assert sas_token.signed_by(token, key)
            self._pending = packet.client_id
        else:
            assert username.startswith(f"{HUB}/{packet.client_id}/?api-version=")
            assert packet.client_id not in peer.lines, "a device takes its own place over"
            self._name = packet.client_id
            peer.connects[self._name].append(packet)
            self.say(Connack(peer.connack))
            if not peer.connack:
                peer.lines[self._name] = self
            return
        self.say(Connack(0))

    def _publish(self, packet: Publish) -> None:
        peer, topic = self._peer, packet.topic
        if topic.startswith("$dps/"):
            self._register(packet)
        elif "/messages/events/" in topic:
            peer.messages[self._name].append(packet)
        elif topic.startswith("$iothub/methods/res/"):
            peer.replies[self._name].append(packet)
        elif topic.startswith("$iothub/twin/GET/"):
            twin = {"desired": peer.desired, "reported": peer.reported}
            self._answer(packet, "$iothub/twin/res", peer.twin_status, twin)
        else:
            peer.reports[self._name].append(json.loads(packet.payload))
            self._answer(packet, "$iothub/twin/res", 204, None)

    def _register(self, packet: Publish) -> None:
        peer = self._peer
        if "iotdps-register" in packet.topic and peer.refusals:
            status, body = peer.refusals.pop(0)
            self._answer(packet, "$dps/registrations/res", status, body)
            return
        if self._pending == peer.barred:
            body = {"errorCode": 404201, "message": "Not found"}
            self._answer(packet, "$dps/registrations/res", 404, body)
            return
        body = {"operationId": "5.a/b", "status": "assigning"}
        if "iotdps-register" in packet.topic:
            self._answer(packet, "$dps/registrations/res", 202, body, "&retry-after=0")
            return
        assert packet.topic.endswith("&operationId=5.a%2Fb")
        peer.registered.append(self._pending)
        body["status"] = "assigned"
        state = {"assignedHub": HUB, "deviceId": self._pending}
        self._answer(packet, "$dps/registrations/res", 200, {**body, "registrationState": state})

    def _answer(self, packet: Publish, base: str, status: int, body: Any, more: str = "") -> None:
        found = RID.fullmatch(packet.topic)
        assert found is not None
        payload = b"" if body is None else json.dumps(body).encode()
        self.say(Publish(f"{base}/{status}/?$rid={found[1]}{more}", payload))
