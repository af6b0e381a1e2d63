"""AMQP connections over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from muster.net.amqp import SERVICE_STOPS, AmqpLimits, amqp_protocol_factory
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.events import CreditChanged, LinkAttached
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY_FRAME, SASL_HEADER, frame
from muster.wire.amqp.limits import ConnectionLimits
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Transfer,
)
from unit.net.amqp_peers import (
    RECEIVES,
    AmqpAcceptor,
    Client,
    Owner,
    encoded,
    encoded_sasl,
    transfer,
)
from unit.net.loopback import Certificate, connect, hang_up, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from muster.net.listener import Listener
    from unit.net.net_fixtures import Listen


@pytest.fixture
async def acceptor() -> AmqpAcceptor:
    return AmqpAcceptor()


@pytest.fixture
async def dial(
    listen: Listen, certificate: Certificate, acceptor: AmqpAcceptor
) -> AsyncIterator[Any]:
    """Return a function that opens a connection to a listener with `acceptor`, over TLS."""
    listeners: dict[str, Listener] = {}
    clients: list[Client] = []

    async def open_client(**limits: Any) -> Client:
        key = repr(limits)
        if key not in listeners:
            factory = amqp_protocol_factory(acceptor, "server", limits=AmqpLimits(**limits))
            listeners[key] = await listen(factory)
        clients.append(Client(*await connect(listeners[key].port, certificate.client())))
        return clients[-1]

    yield open_client
    await hang_up(*(client.writer for client in clients))


async def test_a_whole_life(dial: Any, acceptor: AmqpAcceptor) -> None:
    client = await dial()
    await client.log_in()
    (owner,) = acceptor.owners
    assert owner.peer.transport == "amqp"
    host, port = client.writer.get_extra_info("sockname")
    assert owner.peer.remote == f"{host}:{port}"
    assert [type(event) for event in owner.events] == [
        Open,
        LinkAttached,
        LinkAttached,
        CreditChanged,
    ]
    client.send(transfer(0), transfer(1))
    assert await client.receive() == Disposition(
        role=True, first=0, last=1, settled=True, state=Accepted()
    )
    assert 0 <= asyncio.get_running_loop().time() - owner.peer.last_received < 5
    client.send(Detach(0, closed=True), Detach(1, closed=True), End(), Close())
    assert await client.ended() == [
        Detach(0, closed=True),
        Detach(1, closed=True),
        End(),
        Close(),
    ]
    await until(lambda: bool(owner.closings))
    assert owner.closings == ["closed by the client"]
    assert owner.peer.closed
    owner.peer.pause_reading()
    owner.peer.resume_reading()
    owner.connection.close()


async def test_what_is_said_later_leaves_by_itself(dial: Any, acceptor: AmqpAcceptor) -> None:
    client = await dial()
    await client.log_in()
    (owner,) = acceptor.owners
    assert owner.link is not None
    for number in range(3):
        owner.link.send(b"%d" % number, settled=True)
    frames = [await client.receive_frame() for _ in range(3)]
    assert [payload for _, payload in frames] == [b"0", b"1", b"2"]
    owner.link.detach(Error("amqp:link:stolen"))
    assert await client.receive() == Detach(1, closed=True, error=Error("amqp:link:stolen"))


async def test_nothing_is_read_until_the_client_is_answered(
    dial: Any, acceptor: AmqpAcceptor
) -> None:
    acceptor.answers = False
    client = await dial()
    client.send(SASL_HEADER, encoded_sasl(SaslInit("PLAIN", b"\0u\0p")))
    client.send(AMQP_HEADER, Open("c"), Begin(0, 9, 9), Attach("l", 0, role=True))
    assert await client.header() == SASL_HEADER
    assert isinstance(await client.receive(), SaslMechanisms)
    await until(lambda: bool(acceptor.owners and acceptor.owners[0].events))
    (owner,) = acceptor.owners
    for _ in range(40):
        client.writer.write(EMPTY_FRAME * 10_000)
    await asyncio.sleep(0.1)
    assert [type(event) for event in owner.events] == [SaslInit]
    assert owner.connection.buffered < 1_000_000
    owner.connection.sasl_accept()
    assert await client.receive() == SaslOutcome(0)
    assert await client.header() == AMQP_HEADER
    await until(lambda: len(owner.events) == 2)
    acceptor.answers = True
    owner.connection.open()
    assert [type(await client.receive()) for _ in range(3)] == [Open, Begin, Attach]


async def test_refused_by_sasl(dial: Any, acceptor: AmqpAcceptor) -> None:
    acceptor.answers = False
    client = await dial()
    client.send(SASL_HEADER, encoded_sasl(SaslInit("PLAIN", b"\0u\0p")))
    await client.header()
    await client.receive()
    await until(lambda: bool(acceptor.owners[0].events))
    acceptor.owners[0].connection.sasl_refuse()
    assert await client.ended() == [SaslOutcome(1)]
    await until(lambda: bool(acceptor.owners[0].closings))
    assert acceptor.owners[0].closings == ["closed by the service"]


async def test_refused_at_open(dial: Any, acceptor: AmqpAcceptor) -> None:
    acceptor.answers = False
    client = await dial()
    client.send(AMQP_HEADER, Open("c"))
    await client.header()
    await until(lambda: bool(acceptor.owners[0].events))
    error = Error("amqp:unauthorized-access", "{}")
    acceptor.owners[0].connection.close(error)
    opened, closed = await client.ended()
    assert isinstance(opened, Open)
    assert closed == Close(error)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", AMQP_HEADER + frame(0, b"\x40"), SASL_HEADER + b"\xff" * 9]
)
async def test_violation_before_open(
    dial: Any, acceptor: AmqpAcceptor, log: list[Any], data: bytes
) -> None:
    client = await dial()
    client.send(data)
    await client.header()
    await client.ended()
    (owner,) = acceptor.owners
    await until(lambda: bool(owner.closings))
    assert owner.events == []
    assert [(event["event"], event["log_level"]) for event in log] == [
        ("amqp protocol violated", "info")
    ]
    assert owner.closings == [log[0]["reason"]]


async def test_violation_after_open(dial: Any, acceptor: AmqpAcceptor, log: list[Any]) -> None:
    client = await dial()
    await client.log_in()
    client.send(transfer(0), frame(0, b"\x40"), transfer(1))
    # What came before has been served, though not answered.
    (closed,) = await client.ended()
    assert closed.error.condition == "amqp:decode-error"
    (owner,) = acceptor.owners
    await until(lambda: bool(owner.closings))
    assert len([event for event in owner.events if isinstance(event, Delivery)]) == 1
    assert owner.closings == [log[0]["reason"]]


@pytest.mark.parametrize("where", ["received", "closed", "writable"])
async def test_failing_owner_costs_its_connection_only(
    dial: Any,
    acceptor: AmqpAcceptor,
    log: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    other = await dial()
    await other.log_in()
    client = await dial()
    await client.log_in()
    owner = acceptor.owners[1]

    def fail(*_args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(owner, where, fail)
    if where == "writable":
        # Less than makes the client's reader pause, which loses what is left when the server ends.
        flood(owner, 20)
        assert owner.peer.congested
    client.send(Close() if where == "closed" else transfer(0))
    said = await client.ended()
    assert isinstance(said[-1], Close)
    if where != "closed":
        assert said[-1].error == Error("amqp:internal-error")
        await until(lambda: bool(owner.closings))
        assert owner.closings == ["internal error"]
    assert [(event["event"], event["where"]) for event in log] == [("amqp owner failed", where)]
    other.send(transfer(0))
    assert isinstance(await other.receive(), Disposition)


async def test_failing_acceptor(dial: Any, acceptor: AmqpAcceptor, log: list[Any]) -> None:
    acceptor.accept = None  # type: ignore[assignment, method-assign]
    client = await dial()
    client.send(AMQP_HEADER)
    with pytest.raises((AssertionError, ConnectionError)):
        await client.header()
    assert [event["event"] for event in log] == ["connection failed"]


@pytest.mark.parametrize("data", [b"AMQP", AMQP_HEADER, SASL_HEADER])
async def test_not_open_in_time(dial: Any, acceptor: AmqpAcceptor, data: bytes) -> None:
    client = await dial(open_s=0.2)
    client.send(data)
    if len(data) == 8:
        await client.header()
    await client.ended()
    await until(lambda: bool(acceptor.owners[0].closings))
    assert acceptor.owners[0].closings == ["not open in time"]


async def test_open_is_not_answered_in_time(dial: Any, acceptor: AmqpAcceptor) -> None:
    acceptor.answers = False
    client = await dial(open_s=0.2)
    client.send(AMQP_HEADER, Open("c"))
    await client.header()
    assert [type(said) for said in await client.ended()] == [Open, Close]


async def test_silent_client_is_closed(dial: Any, acceptor: AmqpAcceptor) -> None:
    limits = ConnectionLimits(idle_time_out=400)
    silent, talking = await dial(connection=limits), await dial(connection=limits)
    await silent.log_in()
    await talking.log_in()

    async def talk() -> None:
        while True:
            talking.send(EMPTY_FRAME)
            await asyncio.sleep(0.1)

    talk_task = asyncio.ensure_future(talk())
    (closed,) = await silent.ended()
    assert closed.error.condition == "amqp:resource-limit-exceeded"
    await until(lambda: bool(acceptor.owners[0].closings))
    assert acceptor.owners[0].closings == ["nothing was heard for too long"]
    await asyncio.sleep(0.3)
    assert not acceptor.owners[1].peer.closed
    talk_task.cancel()


async def test_silence_is_not_counted_while_reading_is_paused(
    dial: Any, acceptor: AmqpAcceptor
) -> None:
    client = await dial(connection=ConnectionLimits(idle_time_out=200))
    await client.log_in()
    (owner,) = acceptor.owners
    owner.peer.pause_reading()
    client.send(transfer(0))
    await asyncio.sleep(0.6)
    assert not owner.peer.closed
    assert not any(isinstance(event, Delivery) for event in owner.events)
    owner.peer.resume_reading()
    assert isinstance(await client.receive(), Disposition)


async def test_client_hears_that_the_server_is_alive(dial: Any) -> None:
    client = await dial()
    await client.log_in(idle_time_out=1_000)
    for _ in range(2):
        assert await client.receive() == EMPTY_FRAME


async def test_closed_by_the_owner(dial: Any, acceptor: AmqpAcceptor) -> None:
    def close(owner: Owner) -> None:
        assert owner.link is not None
        owner.link.send(b"last", settled=True)
        owner.connection.close(Error("amqp:connection:forced"))
        assert owner.peer.closed
        assert not owner.closings

    acceptor.on_payload[b"close"] = close
    client = await dial()
    await client.log_in()
    client.send(transfer(0, b"close"), transfer(1))
    last, closed = await client.ended()
    assert isinstance(last, Transfer)
    assert closed == Close(Error("amqp:connection:forced"))
    (owner,) = acceptor.owners
    await until(lambda: bool(owner.closings))
    assert owner.closings == ["closed by the service"]


async def test_lost_without_close(dial: Any, acceptor: AmqpAcceptor) -> None:
    client = await dial()
    await client.log_in()
    (owner,) = acceptor.owners
    tcp: socket.socket = client.writer.get_extra_info("socket")
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    await until(lambda: bool(owner.closings))
    assert owner.closings[0] in {"connection lost", "closed by the client"}
    assert owner.connection.closed
    assert owner.link is not None
    # Nothing is kept for nobody.
    unsent = owner.connection.unsent
    owner.link.send(b"x")
    assert owner.connection.unsent == unsent
    assert owner.link.queued == 0


def flood(owner: Owner, count: int) -> None:
    assert owner.link is not None
    for _ in range(count):
        owner.link.send(bytes(50_000), settled=True)


async def test_slow_reader_is_closed(dial: Any, acceptor: AmqpAcceptor, log: list[Any]) -> None:
    client = await dial(write_buffer=1_000_000)
    await client.log_in(credit=1_000)
    client.writer.transport.pause_reading()
    (owner,) = acceptor.owners
    async with asyncio.timeout(10):
        while not owner.closings:
            flood(owner, 100)
            await asyncio.sleep(0.01)
    assert owner.closings == ["too slow a reader"]
    assert [event["reason"] for event in log] == ["too slow a reader"]


async def test_owner_that_minds_the_client_sends_everything(
    dial: Any, acceptor: AmqpAcceptor
) -> None:
    count = 400

    def send_more(owner: Owner) -> None:
        assert owner.link is not None
        while owner.link.credit and len(owner.sent) < count and not owner.peer.congested:
            owner.sent.append(owner.link.send(bytes(50_000), settled=True))

    acceptor.on_writable = acceptor.on_payload[b"much"] = send_more
    client = await dial(write_buffer=1_000_000)
    await client.log_in(credit=count)
    client.send(transfer(0, b"much"))
    (owner,) = acceptor.owners
    await until(lambda: owner.peer.congested)
    assert len(owner.sent) < count
    transfers = 0
    while transfers < count:
        said, payload = await client.receive_frame()
        if isinstance(said, Transfer):
            transfers += 1
            assert payload == bytes(50_000)
    assert owner.writables > 1


async def test_frames_are_as_small_as_the_client_wants(dial: Any, acceptor: AmqpAcceptor) -> None:
    client = await dial()
    await client.log_in(max_frame_size=512)
    (owner,) = acceptor.owners
    assert owner.link is not None
    owner.link.send(bytes(5_000))
    parts = [await client.receive_frame()]
    while parts[-1][0].more:
        parts.append(await client.receive_frame())
    assert b"".join(payload for _, payload in parts) == bytes(5_000)
    assert max(len(encoded(said, payload)) for said, payload in parts) <= 512


async def test_credit_is_echoed(dial: Any) -> None:
    client = await dial()
    await client.log_in(credit=0)
    client.send(Flow(9, 0, 9, 0, RECEIVES, 0, 7, echo=True))
    assert (await client.receive()).link_credit == 7


async def test_service_stops(
    listen: Listen, certificate: Certificate, acceptor: AmqpAcceptor
) -> None:
    listener = await listen(amqp_protocol_factory(acceptor, "server"))
    client = Client(*await connect(listener.port, certificate.client()))
    await client.log_in()
    closing = asyncio.ensure_future(listener.close(5.0))
    # Node's SDK is back at once after a lost connection, and long after a close frame.
    assert await client.ended() == []
    await hang_up(client.writer)
    await closing
    assert acceptor.owners[0].closings == [SERVICE_STOPS]
