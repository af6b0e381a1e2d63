"""The hub behind the real MQTT connection of `muster.net`, over a transport in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, final

import pytest

from muster.decisions.explain import explain
from muster.net.mqtt import MqttLimits, mqtt_protocol_factory
from muster.net.stream import DoesNotReadError
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
)
from unit.hub.hub_parts import will_of

if TYPE_CHECKING:
    from muster.net.mqtt import MqttConnection
    from unit.hub.hub_parts import Parts

EVENTS = "devices/d1/messages/events/"


@final
class Wire(asyncio.Transport):
    """A socket that is not there."""

    def __init__(self, protocol: MqttConnection) -> None:
        super().__init__({"peername": ("192.0.2.1", 1234)})
        self.unread = 0
        self.protocol = protocol
        self.packets: list[Packet] = []
        self.over = False
        self._decoder = codec.Decoder()
        protocol.connection_made(self)

    def send(self, *packets: Packet) -> None:
        self.protocol.data_received(b"".join(codec.encode(packet) for packet in packets))

    async def take(self, count: int) -> list[Packet]:
        async with asyncio.timeout(5):
            while len(self.packets) < count:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
        taken, self.packets[:count] = self.packets[:count], []
        return taken

    def write(self, data: Any) -> None:
        self.packets += self._decoder.feed(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        if not self.over:
            self.over = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close


def connect(parts: Parts, packet: Connect) -> Wire:
    wire = Wire(mqtt_protocol_factory(parts.mqtt)())
    wire.send(packet)
    return wire


async def test_a_conversation(parts: Parts) -> None:
    ref = await parts.device()
    wire = connect(parts, parts.connect_packet(ref))
    # What follows before CONNACK is kept.
    wire.send(Publish(EVENTS, b"1", 1, 1), Pingreq(), Publish(EVENTS, b"2", 1, 2))
    packets = await wire.take(4)
    assert packets[0] == Connack(0)
    assert Pingresp() in packets
    assert [packet for packet in packets if isinstance(packet, Puback)] == [Puback(1), Puback(2)]
    wire.send(Disconnect())
    await asyncio.sleep(0.01)
    assert wire.over
    assert parts.connections.get(ref) is None


async def test_a_stopping_service_publishes_no_wills(parts: Parts) -> None:
    ref = await parts.device()
    packet = parts.connect_packet(ref, will=will_of(EVENTS, b"bye"))
    wire = connect(parts, packet)
    await wire.take(1)
    wire.protocol.shutdown()
    wire = connect(parts, packet)
    await wire.take(1)
    stored = asyncio.Event()
    parts.telemetry.log(parts.hub).subscribe(stored.set)
    wire.protocol.eof_received()
    async with asyncio.timeout(20):
        await stored.wait()
    assert len(await parts.events()) == 1


async def test_a_renewal_by_disconnect_and_connect_is_no_takeover(parts: Parts) -> None:
    ref = await parts.device()
    for _ in range(3):
        wire = connect(parts, parts.connect_packet(ref))
        assert await wire.take(1) == [Connack(0)]
        wire.send(Disconnect())
    assert await parts.checks("d1") == []


async def test_a_second_connection_ends_the_first(parts: Parts) -> None:
    ref = await parts.device()
    first = connect(parts, parts.connect_packet(ref))
    await first.take(1)
    second = connect(parts, parts.connect_packet(ref))
    await second.take(1)
    await asyncio.sleep(0.01)
    assert (first.over, second.over) == (True, False)
    assert parts.connections.get(ref) is not None
    assert await parts.checks("d1") == ["taken-over"]


async def test_a_refusal_is_answered_and_closed(parts: Parts) -> None:
    ref = await parts.device()
    wire = connect(parts, parts.connect_packet(ref, password="nothing"))
    assert await wire.take(1) == [Connack(5)]
    await asyncio.sleep(0.01)
    assert wire.over


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_slow_reader_is_on_record(parts: Parts, *, stalled: bool) -> None:
    ref = await parts.device()
    wire = connect(parts, parts.connect_packet(ref))
    await wire.take(1)
    if stalled:
        wire.protocol.connection_lost(DoesNotReadError())
    else:
        wire.protocol.pause_writing()
        wire.unread = MqttLimits().write_buffer + 1
        wire.send(Pingreq())
        await asyncio.sleep(0)
        assert wire.over
    (decision,) = await parts.decisions.find("d1")
    assert (decision.outcome, decision.check) == ("closed", "connection-closed")
    assert decision.facts == {"reason": "too slow a reader", "remote": "192.0.2.1:1234"}
    assert explain(decision).cause.startswith("Closed because: too slow a reader.")


async def test_a_broken_protocol_is_on_record(parts: Parts) -> None:
    ref = await parts.device()
    wire = connect(parts, parts.connect_packet(ref))
    await wire.take(1)
    wire.protocol.data_received(b"\xf0\x00")
    await asyncio.sleep(0.01)
    (decision,) = await parts.decisions.find("d1")
    assert (decision.outcome, decision.check) == ("closed", "connection-closed")


async def test_what_the_client_wants_is_not_on_record(parts: Parts) -> None:
    ref = await parts.device()
    for end in ("shutdown", "eof_received", "timer_expired"):
        wire = connect(parts, parts.connect_packet(ref))
        await wire.take(1)
        arguments = [asyncio.get_running_loop().time() + 1e6] if end == "timer_expired" else []
        getattr(wire.protocol, end)(*arguments)
        await asyncio.sleep(0.01)
        assert wire.over
    assert await parts.checks("d1") == []
