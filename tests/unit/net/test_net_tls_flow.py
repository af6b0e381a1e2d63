"""The TLS pump: flow control, stalled peers, and what else may happen."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from muster.net.stream import Limits
from unit.net.loopback import (
    HOST,
    Certificate,
    Echo,
    connect,
    hang_up,
    raw_socket,
    read,
    read_all,
    until,
)

if TYPE_CHECKING:
    from unit.net.net_fixtures import Listen


class Fill(asyncio.Protocol):
    """Writes until told to pause."""

    def __init__(self) -> None:
        self.paused = 0
        self.resumed = 0
        self.written = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.fill()

    def fill(self) -> None:
        while self.written < 20_000_000 and self.paused == self.resumed:
            self.transport.write(b"z" * 10_000)
            self.written += 10_000
        if self.written >= 20_000_000:
            self.transport.close()

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1
        self.fill()


@pytest.mark.parametrize("tls", [True, False])
async def test_flow_control(listen: Listen, certificate: Certificate, *, tls: bool) -> None:
    made: list[Fill] = []

    def factory() -> Fill:
        made.append(Fill())
        return made[-1]

    listener = await listen(factory, tls=tls)
    reader, writer = await connect(listener.port, certificate.client() if tls else None)
    await until(lambda: bool(made) and made[0].paused > 0)
    await asyncio.sleep(0.1)
    assert made[0].written < 15_000_000
    assert made[0].transport.get_write_buffer_size() < 1_000_000
    received = 0
    async with asyncio.timeout(10):
        while data := await reader.read(1 << 20):
            received += len(data)
    assert received == 20_000_000
    await hang_up(writer)


async def test_pause_reading(listen: Listen, certificate: Certificate) -> None:
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    listener = await listen(factory)
    reader, writer = await connect(listener.port, certificate.client())
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    transport = made[0].transport
    assert transport is not None
    assert transport.is_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    writer.write(b"two")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    transport.resume_reading()
    assert await read(reader, 3) == b"two"
    await hang_up(writer)


async def test_peer_who_does_not_read_is_dropped(
    listen: Listen, certificate: Certificate, log: list[Any]
) -> None:
    class Flood(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            while not transport.is_closing():
                transport.write(b"f" * 60_000)

    listener = await listen(Flood, Limits(write_buffer=2_000_000))
    _, writer = await connect(listener.port, certificate.client())
    await until(lambda: listener.connections == 0)
    assert [event["reason"] for event in log] == ["peer does not read"]
    await hang_up(writer)


async def test_stalled_peer_is_dropped(listen: Listen) -> None:
    class Much(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"m" * 12_000_000)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

    listener = await listen(Much, Limits(write_stall_s=0.3), tls=False)
    client = raw_socket(listener.port)
    client.send(b"go")
    await until(lambda: listener.connections == 1)
    await until(lambda: listener.connections == 0)
    client.close()


async def test_nothing_sent_after_the_handshake(listen: Listen, certificate: Certificate) -> None:
    listener = await listen(Echo, Limits(first_byte_s=0.2))
    reader, writer = await connect(listener.port, certificate.client())
    assert await read_all(reader) == b""
    await hang_up(writer)


async def test_session_is_resumed(listen: Listen, certificate: Certificate) -> None:
    listener = await listen(Echo)
    context = certificate.client(ssl.TLSVersion.TLSv1_3)

    def talk(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection((HOST, listener.port)) as tcp,
            context.wrap_socket(tcp, server_hostname="localhost", session=session) as tls,
        ):
            tls.sendall(b"x")
            assert tls.recv(1) == b"x"
            return tls.session, tls.session_reused

    session, _ = await asyncio.to_thread(talk, None)
    _, resumed = await asyncio.to_thread(talk, session)
    assert resumed


async def test_extra_info(listen: Listen, certificate: Certificate) -> None:
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    listener = await listen(factory)
    _, writer = await connect(listener.port, certificate.client())
    await until(lambda: bool(made) and made[0].transport is not None)
    transport = made[0].transport
    assert transport is not None
    assert transport.get_extra_info("peername") == writer.get_extra_info("sockname")
    assert transport.get_extra_info("sockname") == (HOST, listener.port)
    assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
    assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert transport.get_extra_info("socket") is None
    assert transport.get_extra_info("unheard-of", 7) == 7
    assert transport.get_protocol() is made[0]
    assert not transport.can_write_eof()
    await hang_up(writer)


@pytest.mark.parametrize("where", ["factory", "connection_made", "data_received", "eof_received"])
async def test_application_mistake_costs_one_connection(
    listen: Listen, certificate: Certificate, log: list[Any], where: str
) -> None:
    class Faulty(Echo):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            if where == "connection_made":
                raise ZeroDivisionError

        def data_received(self, data: bytes) -> None:
            if where == "data_received" and data == b"boom":
                raise ZeroDivisionError
            super().data_received(data)

        def eof_received(self) -> None:
            if where == "eof_received":
                raise ZeroDivisionError

    def refuse() -> Echo:
        raise ZeroDivisionError

    factories = [Echo, refuse if where == "factory" else Faulty]

    def factory() -> Echo:
        return factories.pop()()

    listener = await listen(factory)
    bad_reader, bad_writer = await connect(listener.port, certificate.client())
    reader, writer = await connect(listener.port, certificate.client())
    bad_writer.write(b"boom")
    if where == "eof_received":
        await hang_up(bad_writer)
    else:
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await read(bad_reader, 10)
        await hang_up(bad_writer)
    writer.write(b"still here")
    assert await read(reader, 10) == b"still here"
    assert [event["event"] for event in log] == ["connection failed"]
    await hang_up(writer)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
async def test_key_update(listen: Listen, certificate: Certificate) -> None:
    """A reading that makes OpenSSL write, which no Python client can ask for."""
    listener = await listen(Echo)
    words = [b"one\n", b"two\n", b"three\n"]

    def talk() -> bytes:
        command = ["openssl", "s_client", "-tls1_3", "-CAfile", str(certificate.certificate)]
        with subprocess.Popen(
            [*command, "-connect", f"{HOST}:{listener.port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as client:
            assert client.stdin is not None
            for word in words:
                # "K" alone on a line is a command: update the keys of both directions. Commands
                # are only found in front of what is read in one go.
                for line in (word, b"K\n"):
                    time.sleep(0.1)
                    client.stdin.write(line)
                    client.stdin.flush()
            time.sleep(0.2)
            return client.communicate(timeout=10)[0]

    output = (await asyncio.to_thread(talk)).splitlines(keepends=True)
    assert [line for line in output if line in words] == words
    assert output.count(b"KEYUPDATE\n") == 3


async def test_reset_by_peer(listen: Listen, certificate: Certificate) -> None:
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    listener = await listen(factory)

    def talk() -> None:
        tcp = socket.create_connection((HOST, listener.port))
        tls = certificate.client().wrap_socket(tcp, server_hostname="localhost")
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tls.close()

    await asyncio.to_thread(talk)
    await until(lambda: listener.connections == 0)
    assert len(made[0].lost) == 1
