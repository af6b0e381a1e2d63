from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from muster.net.mqtt import MqttLimits, mqtt_protocol_factory
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Unsubscribe,
)
from unit.net.loopback import Certificate, connect, hang_up, until
from unit.net.mqtt_peers import Acceptor, Client, telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from muster.net.listener import Listener
    from unit.net.net_fixtures import Listen


@pytest.fixture
async def acceptor() -> Acceptor:
    return Acceptor()


@pytest.fixture
async def dial(listen: Listen, certificate: Certificate, acceptor: Acceptor) -> AsyncIterator[Any]:
    """Return a function that opens a connection to a listener with `acceptor`, over TLS."""
    listeners: dict[str, Listener] = {}
    clients: list[Client] = []

    async def open_client(**limits: Any) -> Client:
        key = repr(limits)
        if key not in listeners:
            factory = mqtt_protocol_factory(acceptor, MqttLimits(**limits))
            listeners[key] = await listen(factory)
        clients.append(Client(*await connect(listeners[key].port, certificate.client())))
        return clients[-1]

    yield open_client
    await hang_up(*(client.writer for client in clients))


async def test_a_whole_life(dial: Any, acceptor: Acceptor) -> None:
    client = await dial()
    client.send(Connect("d1", "user", b"password", clean_session=False))
    connack = await client.receive(Connack)
    assert (connack.return_code, connack.session_present) == (0, True)
    session = acceptor.sessions[0]
    assert session.connect.username == "user"
    assert session.peer.transport == "mqtt"
    host, port = client.writer.get_extra_info("sockname")
    assert session.peer.remote == f"{host}:{port}"
    client.send(Subscribe(1, [("a", 1)]), telemetry(2), telemetry(None), telemetry(3))
    assert (await client.receive(Puback)).packet_id == 2
    assert (await client.receive(Puback)).packet_id == 3
    client.send(Pingreq())
    await client.receive(Pingresp)
    heard = session.peer.last_received
    assert 0 <= asyncio.get_running_loop().time() - heard < 5
    client.send(Unsubscribe(4, ["a"]), Disconnect())
    await client.ended()
    await until(lambda: bool(session.closings))
    assert session.events == ["started", "received", "received", "closed"]
    assert [type(packet) for packet in session.packets] == [
        Subscribe,
        Publish,
        Publish,
        Publish,
        Unsubscribe,
    ]
    assert session.closings == [(True, "closed by the client")]
    assert session.peer.closed
    session.peer.write(b"dropped")
    session.peer.close("again")
    session.peer.pause_reading()
    session.peer.resume_reading()


async def test_packets_are_held_until_accepted(dial: Any, acceptor: Acceptor) -> None:
    acceptor.gate.clear()
    client = await dial()
    client.send(Connect("d1"), telemetry(1), Pingreq(), telemetry(2))
    await until(lambda: acceptor.asked == 1)
    client.send(telemetry(3))
    await asyncio.sleep(0.05)
    client.send(telemetry(4))
    await asyncio.sleep(0.05)
    assert not acceptor.sessions
    acceptor.gate.set()
    await client.receive(Connack)
    answers = [await client.receive(object) for _ in range(5)]
    assert [a.packet_id for a in answers if isinstance(a, Puback)] == [1, 2, 3, 4]
    assert any(isinstance(answer, Pingresp) for answer in answers)
    # Reading goes on.
    client.send(telemetry(5))
    assert (await client.receive(Puback)).packet_id == 5


async def test_disconnect_right_after_connect(dial: Any, acceptor: Acceptor) -> None:
    client = await dial()
    client.send(Connect("d1"), telemetry(1), Disconnect(), telemetry(2))
    await client.receive(Connack)
    assert (await client.receive(Puback)).packet_id == 1
    await client.ended()
    await until(lambda: bool(acceptor.sessions[0].closings))
    assert acceptor.sessions[0].closings == [(True, "closed by the client")]


async def test_client_that_leaves_while_it_is_being_accepted(dial: Any, acceptor: Acceptor) -> None:
    acceptor.gate.clear()
    client = await dial()
    client.send(Connect("d1"))
    await until(lambda: acceptor.asked == 1)
    await hang_up(client.writer)
    await asyncio.sleep(0.05)
    acceptor.gate.set()
    await until(lambda: bool(acceptor.sessions) and bool(acceptor.sessions[0].closings))
    assert acceptor.sessions[0].events == ["closed"]
    assert acceptor.sessions[0].closings == [(False, "closed by the client")]


@pytest.mark.parametrize(("client_id", "code"), [("refused", 5), ("slowed", 3), ("fault", 3)])
async def test_refused(dial: Any, log: list[Any], client_id: str, code: int) -> None:
    client = await dial()
    loop = asyncio.get_running_loop()
    began = loop.time()
    client.send(Connect(client_id), telemetry(1))
    connack = await client.receive(Connack)
    assert (connack.return_code, connack.session_present) == (code, False)
    assert (loop.time() - began >= 0.19) == (client_id == "slowed")
    await client.ended()
    assert [event["event"] for event in log] == (
        ["mqtt accept failed"] if client_id == "fault" else []
    )


VIOLATIONS = {
    "wrong level": (b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x03d1x", 1),
    "publish first": (codec.encode(telemetry(1)), None),
    "reserved type": (b"\xf0\x00", None),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_violation_before_connect(
    dial: Any, acceptor: Acceptor, log: list[Any], data: bytes, code: int | None
) -> None:
    client = await dial()
    client.send(data)
    if code is not None:
        assert (await client.receive(Connack)).return_code == code
    await client.ended()
    assert acceptor.asked == 0
    assert [(event["event"], event["log_level"]) for event in log] == [
        ("mqtt protocol violated", "info")
    ]


async def test_violation_after_connect(dial: Any, acceptor: Acceptor, log: list[Any]) -> None:
    client = await dial()
    await client.log_in()
    client.send(telemetry(1), Connect("d1"), telemetry(2))
    assert (await client.receive(Puback)).packet_id == 1
    await client.ended()
    await until(lambda: bool(acceptor.sessions[0].closings))
    graceful, reason = acceptor.sessions[0].closings[0]
    assert not graceful
    assert "CONNECT" in reason
    assert len(log) == 1
    assert log[0]["reason"] == reason


@pytest.mark.parametrize("where", ["started", "received", "closed"])
async def test_failing_session_costs_its_connection_only(
    dial: Any, acceptor: Acceptor, log: list[Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    other = await dial()
    await other.log_in()

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise ZeroDivisionError

    accept = acceptor.accept

    async def accept_faulty(*args: Any) -> Any:
        answer = await accept(*args)
        monkeypatch.setattr(answer.session, where, fail, raising=True)
        return answer

    monkeypatch.setattr(acceptor, "accept", accept_faulty)
    client = await dial()
    client.send(Connect("d1"), telemetry(1))
    await client.receive(Connack)
    if where == "closed":
        await client.receive(Puback)
        client.send(Disconnect())
    await client.ended()
    await until(lambda: bool(log))
    assert [(event["event"], event["where"]) for event in log] == [("mqtt session failed", where)]
    if where != "closed":
        assert acceptor.sessions[1].closings == [(False, "internal error")]
    other.send(telemetry(1))
    await other.receive(Puback)


async def test_no_connect_in_time(dial: Any, acceptor: Acceptor) -> None:
    client = await dial(connect_s=0.2)
    client.send(b"\x10")
    await client.ended()
    assert acceptor.asked == 0


async def test_keep_alive(dial: Any, acceptor: Acceptor) -> None:
    silent, talking = await dial(), await dial()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await silent.log_in(keep_alive_s=1)
    await talking.log_in(keep_alive_s=1)

    async def talk() -> None:
        while True:
            talking.send(Pingreq())
            await talking.receive(Pingresp)
            await asyncio.sleep(0.3)

    talk_task = asyncio.ensure_future(talk())
    await silent.ended()
    assert 1.5 <= loop.time() - began < 4.0
    assert acceptor.sessions[0].closings == [(False, "nothing was heard for too long")]
    await asyncio.sleep(0.3)
    assert not acceptor.sessions[1].peer.closed
    talk_task.cancel()


async def test_keep_alive_cap(dial: Any, acceptor: Acceptor) -> None:
    """Also for who promises nothing, and for who promises more."""
    for keep_alive_s in (0, 60_000):
        client = await dial(keep_alive_cap_s=0.2)
        await client.log_in(keep_alive_s=keep_alive_s)
        await client.ended()
        await until(lambda: bool(acceptor.sessions[-1].closings))
        assert acceptor.sessions[-1].closings == [(False, "nothing was heard for too long")]


async def test_keep_alive_is_not_counted_while_reading_is_paused(
    dial: Any, acceptor: Acceptor
) -> None:
    client = await dial(keep_alive_cap_s=0.2)
    await client.log_in()
    peer = acceptor.sessions[0].peer
    peer.pause_reading()
    client.send(telemetry(1))
    await asyncio.sleep(0.5)
    assert not peer.closed
    assert not acceptor.sessions[0].packets
    peer.resume_reading()
    assert (await client.receive(Puback)).packet_id == 1


async def test_closed_by_the_session(dial: Any, acceptor: Acceptor) -> None:
    """As on takeover: what was written goes out, and `closed` never comes out of `received`."""

    def close(session: Any) -> None:
        session.peer.write(codec.encode(telemetry(9)))
        session.peer.close("taken over")
        assert not session.closings
        assert session.peer.closed

    acceptor.on_topic["close"] = close
    client = await dial()
    await client.log_in()
    client.send(telemetry(1, topic="close"), telemetry(2))
    assert (await client.receive(Puback)).packet_id == 1
    assert (await client.receive(Puback)).packet_id == 2
    assert (await client.receive(Publish)).packet_id == 9
    await client.ended()
    await until(lambda: bool(acceptor.sessions[0].closings))
    assert acceptor.sessions[0].closings == [(False, "taken over")]


async def test_lost_without_disconnect(dial: Any, acceptor: Acceptor) -> None:
    client = await dial()
    await client.log_in()
    tcp: socket.socket = client.writer.get_extra_info("socket")
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    await until(lambda: bool(acceptor.sessions[0].closings))
    graceful, reason = acceptor.sessions[0].closings[0]
    assert not graceful
    assert re.match("connection lost|closed by the client", reason)


async def test_slow_reader_is_closed(dial: Any, acceptor: Acceptor, log: list[Any]) -> None:
    def flood(session: Any) -> None:
        for _ in range(400):
            session.peer.write(codec.encode(telemetry(1, bytes(50_000))))

    acceptor.on_topic["flood"] = flood
    client = await dial(write_buffer=1_000_000)
    await client.log_in()
    client.writer.transport.pause_reading()
    client.send(telemetry(None, topic="flood"))
    await until(lambda: bool(acceptor.sessions[0].closings))
    assert acceptor.sessions[0].closings == [(False, "too slow a reader")]
    assert [event["reason"] for event in log] == ["too slow a reader"]


async def test_fast_reader_gets_everything(dial: Any, acceptor: Acceptor) -> None:
    def answer(session: Any) -> None:
        for number in range(100):
            session.peer.write(codec.encode(telemetry(number + 1, bytes(50_000))))
        assert session.peer.buffered > 0

    acceptor.on_topic["much"] = answer
    client = await dial()
    await client.log_in()
    client.send(telemetry(None, topic="much"))
    for number in range(100):
        assert (await client.receive(Publish)).packet_id == number + 1


async def test_service_stops(listen: Listen, certificate: Certificate, acceptor: Acceptor) -> None:
    listener = await listen(mqtt_protocol_factory(acceptor))
    client = Client(*await connect(listener.port, certificate.client()))
    await client.log_in()
    closing = asyncio.ensure_future(listener.close(5.0))
    await client.ended()
    await hang_up(client.writer)
    await closing
    assert acceptor.sessions[0].closings == [(False, "service stops")]
