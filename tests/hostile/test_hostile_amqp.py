"""AMQP clients that send slowly, too much, nonsense, or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

from muster.net.amqp import AmqpLimits, amqp_protocol_factory
from muster.net.stream import Limits
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY_FRAME, SASL_HEADER
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Disposition,
    End,
    Flow,
    Open,
    SaslInit,
    Target,
)
from unit.net.amqp_peers import SENDS, AmqpAcceptor, Client, encoded, encoded_sasl, transfer
from unit.net.loopback import connect, hang_up, raw_socket, read_all, until

if TYPE_CHECKING:
    from muster.net.listener import Listener
    from unit.net.net_fixtures import Listen

LARGEST = b"\xff\xff\xff\xff\x02\0\0\0"


@pytest.fixture
async def acceptor() -> AmqpAcceptor:
    return AmqpAcceptor()


async def start(listen: Listen, acceptor: AmqpAcceptor, **limits: Any) -> Listener:
    factory = amqp_protocol_factory(acceptor, "server", limits=AmqpLimits(**limits))
    return await listen(factory, Limits(linger_s=0.2), tls=False)


async def served(port: int) -> None:
    """Check that an honest client gets its answers soon."""
    client = Client(*await connect(port))
    async with asyncio.timeout(1.0):
        await client.log_in()
        client.send(transfer(0))
        assert isinstance(await client.receive(), Disposition)
    await hang_up(client.writer)


OVERSIZED = {
    "no header": LARGEST,
    "open": AMQP_HEADER + LARGEST,
    "sasl": SASL_HEADER + b"\xff\xff\xff\xff\x02\x01\0\0",
    "after open": AMQP_HEADER + encoded(Open("c")) + LARGEST,
}


@pytest.mark.parametrize("start_of_frame", OVERSIZED.values(), ids=OVERSIZED)
async def test_oversized(
    listen: Listen, acceptor: AmqpAcceptor, log: list[Any], start_of_frame: bytes
) -> None:
    listener = await start(listen, acceptor)
    reader, writer = await connect(listener.port)
    writer.write(start_of_frame + bytes(10_000_000))
    with contextlib.suppress(OSError):
        await read_all(reader)
    await hang_up(writer)
    await until(lambda: listener.connections == 0)
    assert acceptor.owners[0].connection.buffered == 0
    assert len(log) == 1
    await served(listener.port)


async def test_message_without_an_end(listen: Listen, acceptor: AmqpAcceptor) -> None:
    listener = await start(listen, acceptor)
    client = Client(*await connect(listener.port))
    await client.log_in()
    part = transfer(0, bytes(60_000), more=True)
    for _ in range(18):
        client.send(part)
    detached = await client.receive()
    assert detached.error.condition == "amqp:link:message-size-exceeded"
    assert acceptor.owners[0].connection.buffered == 0
    await hang_up(client.writer)
    await served(listener.port)


async def test_garbage(listen: Listen, acceptor: AmqpAcceptor, log: list[Any]) -> None:
    listener = await start(listen, acceptor, open_s=0.3)
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
    assert all(event["event"] == "amqp protocol violated" for event in log)
    assert all(len(owner.closings) == 1 for owner in acceptor.owners)
    await served(listener.port)


async def test_open_byte_by_byte(listen: Listen, acceptor: AmqpAcceptor) -> None:
    listener = await start(listen, acceptor, open_s=0.3)
    client = raw_socket(listener.port)
    data = AMQP_HEADER + encoded(Open("c" * 1_000))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with contextlib.suppress(OSError):
        for position in range(len(data)):
            client.send(data[position : position + 1])
            await asyncio.sleep(0.01)
            if position > 2 and listener.connections == 0:
                break
    assert loop.time() - began < 2.0
    assert acceptor.owners[0].events == []
    client.close()


@pytest.mark.parametrize(
    "question",
    [
        SASL_HEADER + encoded_sasl(SaslInit("PLAIN", b"\0u\0p")),
        AMQP_HEADER + encoded(Open("c")),
    ],
    ids=["sasl", "open"],
)
async def test_flood_before_the_answer(
    listen: Listen, acceptor: AmqpAcceptor, question: bytes
) -> None:
    """Reading stops, so what is held stays small."""
    acceptor.answers = False
    listener = await start(listen, acceptor)
    _, writer = await connect(listener.port)
    writer.write(question)
    await until(lambda: bool(acceptor.owners and acceptor.owners[0].events))
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while sent < 100_000_000:
                writer.write(EMPTY_FRAME * 10_000)
                await writer.drain()
                sent += 80_000
    assert sent < 20_000_000
    assert acceptor.owners[0].connection.buffered < 1_000_000
    writer.transport.abort()
    # Who does not read does not see that nobody is there any more.
    acceptor.owners[0].connection.close()
    await until(lambda: listener.connections == 0)


ANSWERED = {
    "flows": encoded(Flow(9, 0, 9, 0, SENDS, 0, 0, echo=True)),
    "links": encoded(Attach("l" * 90, 7, role=False, target=Target("a")))
    + b"\0\0\0\x11\x02\0\0\0\x00\x53\x16\xc0\x04\x02\x52\x07\x41",
    "sessions": b"".join(
        one[:6] + b"\0\x05" + one[8:] for one in (encoded(Begin(0, 1, 1)), encoded(End()))
    ),
}


@pytest.mark.parametrize("said", ANSWERED.values(), ids=ANSWERED)
async def test_questions_of_who_reads_nothing(
    listen: Listen, acceptor: AmqpAcceptor, log: list[Any], said: bytes
) -> None:
    listener = await start(listen, acceptor, write_buffer=200_000)
    client = Client(*await connect(listener.port))
    await client.log_in()
    client.writer.transport.pause_reading()
    # Else the kernel takes megabytes of answers before we notice.
    stream = acceptor.owners[0].peer._sink  # type: ignore[attr-defined]
    stream._raw.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(20):
            while not acceptor.owners[0].closings:
                client.writer.write(said * 1_000)
                await client.writer.drain()
                await asyncio.sleep(0)
    assert acceptor.owners[0].closings == ["too slow a reader"]
    assert [event["reason"] for event in log] == ["too slow a reader"]
    await hang_up(client.writer)
    await served(listener.port)


async def test_more_links_than_anybody_needs(listen: Listen, acceptor: AmqpAcceptor) -> None:
    listener = await start(listen, acceptor)
    client = Client(*await connect(listener.port))
    await client.log_in()
    for handle in range(2, 10_000):
        client.send(Attach("l" * 300, handle, role=True))
    said = await client.ended()
    assert isinstance(said[-1], Close)
    assert said[-1].error is not None
    assert said[-1].error.condition == "amqp:resource-limit-exceeded"
    await hang_up(client.writer)
    await served(listener.port)


async def test_many_who_never_open(listen: Listen, acceptor: AmqpAcceptor, log: list[Any]) -> None:
    listener = await start(listen, acceptor, open_s=0.6)
    silent = [raw_socket(listener.port) for _ in range(300)]
    for number, client in enumerate(silent):
        client.send(AMQP_HEADER[: number % 9])
    await until(lambda: listener.connections == 300)
    await served(listener.port)
    await until(lambda: listener.connections == 0)
    assert all(event["event"] == "amqp connection closed" for event in log)
    for client in silent:
        client.close()
