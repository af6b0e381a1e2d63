"""The TLS pump: what goes through it, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import struct
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from muster.net.listener import Listener
from unit.net.loopback import (
    HOST,
    Certificate,
    Echo,
    connect,
    hang_up,
    read,
    read_all,
    until,
)

if TYPE_CHECKING:
    from unit.net.net_fixtures import Listen

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
async def test_echo(listen: Listen, certificate: Certificate, version: ssl.TLSVersion) -> None:
    listener = await listen(Echo)
    reader, writer = await connect(listener.port, certificate.client(version))
    for message in (b"a", b"hello" * 100, b"x" * 20_000):
        writer.write(message)
        assert await read(reader, len(message)) == message
    await hang_up(writer)
    await until(lambda: listener.connections == 0)


async def test_no_older_version(listen: Listen, certificate: Certificate, log: list[Any]) -> None:
    listener = await listen(Echo)
    context = certificate.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(listener.port, context)
    await until(lambda: any("reason" in event for event in log))
    assert log[0]["reason"] == "unsupported protocol"


@pytest.mark.parametrize("version", VERSIONS)
async def test_large_transfers_both_ways(
    listen: Listen, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    listener = await listen(Echo)
    reader, writer = await connect(listener.port, certificate.client(version))
    sent = os.urandom(1 << 20) * 6

    async def send() -> None:
        for start in range(0, len(sent), 100_000):
            writer.write(sent[start : start + 100_000])
            await writer.drain()

    sending = asyncio.ensure_future(send())
    received = await read(reader, len(sent))
    await sending
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
    await hang_up(writer)


async def test_many_connections_share_the_buffers(listen: Listen, certificate: Certificate) -> None:
    """Interleaved handshakes and partial records of many peers do not mix."""
    listener = await listen(Echo)

    async def talk(number: int) -> None:
        context = certificate.client(VERSIONS[number % 2])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        reader, writer = await connect(listener.port)

        async def step(call: Any) -> Any:
            while True:
                try:
                    result = call()
                except ssl.SSLWantReadError:
                    result = None
                # In pieces that never fit a record.
                data = outgoing.read()
                for start in range(0, len(data), 7 + number):
                    writer.write(data[start : start + 7 + number])
                    await asyncio.sleep(0)
                if result is not None or not call:
                    return result
                incoming.write(await reader.read(50 + number))

        await step(lambda: tls.do_handshake() or True)
        message = bytes([number]) * 300
        await step(lambda: tls.write(message))
        received = b""
        while len(received) < len(message):
            received += await step(lambda: tls.read(1000))
        assert received == message
        await hang_up(writer)

    async with asyncio.timeout(10):
        await asyncio.gather(*(talk(number) for number in range(24)))


class Count(asyncio.Protocol):
    """Counts reads and answers each in three writes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"one,")
        self.transport.writelines([b"two,", bytearray(b"three,")])
        self.transport.write(memoryview(b"four"))
        self.transport.write(b"")


async def test_writes_of_one_read_leave_as_one_record(
    listen: Listen, certificate: Certificate
) -> None:
    listener = await listen(Count)
    context = certificate.client()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await connect(listener.port)
    for _ in range(2):
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(10_000))
    tls.do_handshake()
    tls.write(b"?")
    writer.write(outgoing.read())
    answer = b""
    while not answer:
        incoming.write(await reader.read(10_000))
        try:
            answer = tls.read(1000)
        except ssl.SSLWantReadError:
            # The session ticket came first.
            continue
    assert answer == b"one,two,three,four"
    await hang_up(writer)


async def test_no_client_waits_for_an_acknowledgement(
    listen: Listen, certificate: Certificate
) -> None:
    """Clients that leave Nagle's algorithm on would lose 40 ms per connection."""
    listener = await listen(Echo)
    context = certificate.client()
    clock = asyncio.get_running_loop().time

    def talk() -> float:
        began = clock()
        with (
            socket.create_connection((HOST, listener.port)) as tcp,
            context.wrap_socket(tcp, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"x")
            assert tls.recv(1) == b"x"
        return clock() - began

    # A busy machine can make any of them slow; the delayed acknowledgement makes all of them so.
    assert min([await asyncio.to_thread(talk) for _ in range(20)]) < 0.04


class Farewell(asyncio.Protocol):
    """Sends much, then closes at once."""

    size = 3_000_000

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"x" * self.size)
        transport.write(b"the end")
        transport.close()
        transport.write(b"after the end")


@pytest.mark.parametrize("tls", [True, False])
async def test_close_loses_nothing(listen: Listen, certificate: Certificate, *, tls: bool) -> None:
    listener = await listen(Farewell, tls=tls)
    reader, writer = await connect(listener.port, certificate.client() if tls else None)
    # Data the server never reads must not turn its close into a reset.
    writer.write(b"unread" * 1000)
    await asyncio.sleep(0.05)
    received = await read_all(reader)
    assert len(received) == Farewell.size + 7
    assert received.endswith(b"the end")
    await hang_up(writer)
    await until(lambda: listener.connections == 0)


class Held(asyncio.Protocol):
    """Stops reading, as protocols do that have enough."""

    def __init__(self) -> None:
        self.held: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self.held.set_result(transport)


def test_close_after_a_reset_that_nobody_has_noticed() -> None:
    """On the loop that edge devices have; the other one tells nothing of it."""

    async def talk() -> None:
        protocol = Held()
        listener = await Listener.listen(HOST, 0, None, lambda: protocol)
        with socket.create_connection((HOST, listener.port)) as peer:
            transport = await protocol.held
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()
        await until(lambda: listener.connections == 0)
        await listener.close(drain_s=0.0)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(talk())


async def test_close_says_close_notify(listen: Listen, certificate: Certificate) -> None:
    listener = await listen(Farewell)

    def talk() -> bytes:
        with (
            socket.create_connection((HOST, listener.port)) as tcp,
            certificate.client().wrap_socket(
                tcp, server_hostname="localhost", suppress_ragged_eofs=False
            ) as tls,
        ):
            received = 0
            while data := tls.recv(65_536):
                received += len(data)
            assert received == Farewell.size + 7
            return b"ok"

    assert await asyncio.to_thread(talk) == b"ok"


@pytest.mark.parametrize("tls", [True, False])
async def test_abort_drops(listen: Listen, certificate: Certificate, *, tls: bool) -> None:
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    listener = await listen(factory, tls=tls)
    _, writer = await connect(listener.port, certificate.client() if tls else None)
    writer.write(b"hi")
    await until(lambda: bool(made) and made[0].transport is not None)
    transport = made[0].transport
    assert transport is not None
    transport.write(b"never sent")
    transport.abort()
    assert transport.is_closing()
    await until(lambda: listener.connections == 0)
    assert made[0].lost == [None]
    await hang_up(writer)


class AnswerAtEof(asyncio.Protocol):
    """Answers when the peer has said everything."""

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        asyncio.get_running_loop().call_later(0.05, self.answer)
        return True

    def answer(self) -> None:
        self.transport.write(b"you said " + self.received)
        self.transport.close()


async def test_half_close_plain(listen: Listen) -> None:
    listener = await listen(AnswerAtEof, tls=False)
    reader, writer = await connect(listener.port)
    writer.write(b"hello")
    writer.write_eof()
    assert await read_all(reader) == b"you said hello"
    await hang_up(writer)


async def test_half_close_tls(listen: Listen, certificate: Certificate) -> None:
    """A peer that sent close_notify can still read, as TLS 1.3 allows."""
    listener = await listen(AnswerAtEof)

    def talk() -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificate.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection((HOST, listener.port)) as tcp:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    tcp.sendall(outgoing.read())
                    incoming.write(tcp.recv(10_000))
            tls.write(b"hello")
            try:
                tls.unwrap()
            except ssl.SSLWantReadError:
                tcp.sendall(outgoing.read())
            answer = b""
            while data := tcp.recv(10_000):
                incoming.write(data)
            try:
                answer = tls.read(100)
            except ssl.SSLWantReadError:
                answer = tls.read(100)
            return answer

    assert await asyncio.to_thread(talk) == b"you said hello"
