"""MQTT clients that send slowly, too much, nonsense, or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

from muster.clock import ManualClock
from muster.net.http import http_protocol_factory
from muster.net.mqtt import MqttLimits, mqtt_protocol_factory
from muster.net.stream import Limits
from muster.net.websocket import MQTT_SUBPROTOCOL, ProtocolWebSocket
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connect, Pingreq, Puback
from unit.net.loopback import connect, hang_up, raw_socket, read_all, until
from unit.net.mqtt_peers import Acceptor, Client, telemetry

if TYPE_CHECKING:
    from muster.net.listener import Listener
    from unit.net.net_fixtures import Listen


@pytest.fixture
async def acceptor() -> Acceptor:
    return Acceptor()


async def start(listen: Listen, acceptor: Acceptor, **limits: Any) -> Listener:
    factory = mqtt_protocol_factory(acceptor, MqttLimits(**limits))
    return await listen(factory, Limits(linger_s=0.2), tls=False)


async def served(port: int) -> None:
    """Check that an honest client gets its answers soon."""
    client = Client(*await connect(port))
    async with asyncio.timeout(1.0):
        await client.log_in("honest")
        client.send(telemetry(1))
        await client.receive(Puback)
    await hang_up(client.writer)


OVERSIZED = {
    "connect": b"\x10\xff\xff\xff\x7f",
    "length of five bytes": b"\x10\xff\xff\xff\xff\x01",
    "connect with a huge name": b"\x10\x90\xa1\x0f\x00\x04MQTT\x04\x02\x00\x3c\xff\xff",
}


@pytest.mark.parametrize("start_of_packet", OVERSIZED.values(), ids=OVERSIZED)
async def test_oversized_before_connect(
    listen: Listen, acceptor: Acceptor, log: list[Any], start_of_packet: bytes
) -> None:
    listener = await start(listen, acceptor)
    reader, writer = await connect(listener.port)
    writer.write(start_of_packet + bytes(10_000_000))
    with contextlib.suppress(OSError):
        await read_all(reader)
    await hang_up(writer)
    await until(lambda: listener.connections == 0)
    assert acceptor.asked == 0
    assert len(log) == 1
    await served(listener.port)


async def test_oversized_publish(listen: Listen, acceptor: Acceptor, log: list[Any]) -> None:
    listener = await start(listen, acceptor)
    client = Client(*await connect(listener.port))
    await client.log_in()
    client.send(codec.encode(telemetry(1, bytes(1_000_000))))
    with contextlib.suppress(OSError):
        await client.ended()
    await hang_up(client.writer)
    await until(lambda: bool(acceptor.sessions[0].closings))
    assert not acceptor.sessions[0].packets
    assert len(log) == 1
    await served(listener.port)


async def test_garbage(listen: Listen, acceptor: Acceptor, log: list[Any]) -> None:
    listener = await start(listen, acceptor, connect_s=0.3)
    chance = random.Random(1)
    for after_login in (False, True):
        for _ in range(30):
            client = Client(*await connect(listener.port))
            if after_login:
                await client.log_in()
            client.send(chance.randbytes(2_000))
            with contextlib.suppress(AssertionError, OSError):
                async with asyncio.timeout(0.05):
                    await client.reader.read(1)
            client.writer.transport.abort()
    await until(lambda: listener.connections == 0)
    assert len(log) <= 60
    assert all(event["event"] == "mqtt protocol violated" for event in log)
    assert all(len(session.closings) == 1 for session in acceptor.sessions)
    await served(listener.port)


async def test_connect_byte_by_byte(listen: Listen, acceptor: Acceptor) -> None:
    listener = await start(listen, acceptor, connect_s=0.3)
    client = raw_socket(listener.port)
    data = codec.encode(Connect("d" * 1_000))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with contextlib.suppress(OSError):
        for position in range(len(data)):
            client.send(data[position : position + 1])
            await asyncio.sleep(0.01)
            if position > 2 and listener.connections == 0:
                break
    assert loop.time() - began < 2.0
    assert acceptor.asked == 0
    client.close()


async def test_flood_while_being_accepted(listen: Listen, acceptor: Acceptor) -> None:
    """Reading stops, so what is held stays small."""
    acceptor.gate.clear()
    listener = await start(listen, acceptor)
    _, writer = await connect(listener.port)
    writer.write(codec.encode(Connect("d1")))
    await until(lambda: acceptor.asked == 1)
    message = codec.encode(telemetry(None, bytes(1_000)))
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while sent < 100_000_000:
                writer.write(message * 100)
                await writer.drain()
                sent += 100 * len(message)
    assert sent < 20_000_000
    writer.transport.abort()
    acceptor.gate.set()
    await until(lambda: listener.connections == 0)


async def test_pings_of_who_reads_nothing(
    listen: Listen, acceptor: Acceptor, log: list[Any]
) -> None:
    listener = await start(listen, acceptor, write_buffer=200_000)
    client = Client(*await connect(listener.port))
    await client.log_in()
    client.writer.transport.pause_reading()
    # Else the kernel takes megabytes of answers before we notice.
    stream = acceptor.sessions[0].peer._sink  # type: ignore[attr-defined]
    stream._raw.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    pings = codec.encode(Pingreq()) * 100_000
    with contextlib.suppress(OSError):
        async with asyncio.timeout(8):
            while not acceptor.sessions[0].closings:
                client.writer.write(pings)
                await client.writer.drain()
                await asyncio.sleep(0)
    assert acceptor.sessions[0].closings == [(False, "too slow a reader")]
    assert [event["reason"] for event in log] == ["too slow a reader"]
    await hang_up(client.writer)
    await served(listener.port)


async def test_websocket_pings_of_who_reads_nothing(
    listen: Listen, acceptor: Acceptor, log: list[Any]
) -> None:
    factory = http_protocol_factory(
        ProtocolWebSocket({MQTT_SUBPROTOCOL: mqtt_protocol_factory(acceptor, transport="mqtt-ws")}),
        ManualClock(),
    )
    limits = Limits(write_buffer=500_000, linger_s=0.2)
    listener = await listen(factory, limits, tls=False)
    reader, writer = await connect(listener.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    ping = b"\x89\xfd" + bytes(4) + os.urandom(125)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(8):
            while listener.connections:
                writer.write(ping * 1_000)
                await writer.drain()
                await asyncio.sleep(0)
    assert listener.connections == 0
    assert [event["reason"] for event in log] == ["peer does not read"]
    await hang_up(writer)


async def test_many_who_never_connect(listen: Listen, acceptor: Acceptor, log: list[Any]) -> None:
    listener = await start(listen, acceptor, connect_s=0.6)
    silent = [raw_socket(listener.port) for _ in range(300)]
    for number, client in enumerate(silent):
        client.send(b"\x10\x7f"[: number % 3])
    await until(lambda: listener.connections == 300)
    for _ in range(5):
        await served(listener.port)
    await until(lambda: listener.connections == 0)
    for client in silent:
        client.close()
    assert acceptor.asked == 5
    assert len(log) <= 300
