"""The client's end of TLS, against our listener and against OpenSSL's own server."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import TYPE_CHECKING

import msgspec
import pytest

from muster.net.dial import (
    DIALLER_LIMITS,
    Dialler,
    HandshakeError,
    client_context,
    reason,
)
from unit.net.loopback import HOST, PATIENCE_S, Certificate, Echo, until

if TYPE_CHECKING:
    from pathlib import Path

    from unit.net.net_fixtures import Listen


class Caller(asyncio.Protocol):
    """Sends when it may, and keeps what comes."""

    def __init__(self, words: bytes = b"") -> None:
        self.words = words
        self.heard = b""
        self.transport: asyncio.Transport | None = None
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.words)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@pytest.fixture
async def dialler(certificate: Certificate) -> Dialler:
    return Dialler(client_context(certificate.certificate))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 20_000, 600_000])
async def test_echo(
    listen: Listen, certificate: Certificate, version: ssl.TLSVersion, size: int
) -> None:
    listener = await listen(Echo)
    dialler = Dialler(certificate.client(version))
    caller = Caller(os.urandom(size))
    await dialler.open(HOST, listener.port, caller, "localhost")
    await until(lambda: len(caller.heard) == size)
    assert caller.heard == caller.words
    assert caller.transport is not None
    caller.transport.close()
    await dialler.close(PATIENCE_S)
    assert caller.lost == [None]


async def test_many_at_once_share_the_buffers(listen: Listen, dialler: Dialler) -> None:
    listener = await listen(Echo)
    callers = [Caller(bytes([number]) * (1 + number * 997)) for number in range(40)]
    await asyncio.gather(
        *(dialler.open(HOST, listener.port, caller, "localhost") for caller in callers)
    )
    await until(lambda: all(len(caller.heard) == len(caller.words) for caller in callers))
    assert all(caller.heard == caller.words for caller in callers)
    for caller in callers:
        assert caller.transport is not None
        caller.transport.close()
    await dialler.close(PATIENCE_S)


async def test_against_another_implementation(certificate: Certificate, dialler: Dialler) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, HOST, 0, ssl=context) as server:
        caller = Caller(b"x" * 100_000)
        port = server.sockets[0].getsockname()[1]
        await dialler.open(HOST, port, caller, "localhost")
        await until(lambda: len(caller.heard) == 100_000)
        assert caller.transport is not None
        caller.transport.close()
        await dialler.close(PATIENCE_S)


async def failure(dialler: Dialler, port: int, name: str = "localhost") -> Exception | None:
    caller = Caller()
    await dialler.open(HOST, port, caller, name)
    await until(lambda: bool(caller.lost))
    assert caller.transport is None
    assert len(caller.lost) == 1
    return caller.lost[0]


async def test_a_stranger_is_not_trusted(listen: Listen, tmp_path: Path) -> None:
    listener = await listen(Echo)
    dialler = Dialler(client_context(Certificate.make(tmp_path).certificate))
    error = await failure(dialler, listener.port)
    assert isinstance(error, HandshakeError)
    assert (error.reason, error.untrusted) == ("certificate verify failed", True)


async def test_another_name_is_not_trusted(listen: Listen, dialler: Dialler) -> None:
    listener = await listen(Echo)
    error = await failure(dialler, listener.port, "other.example")
    assert isinstance(error, HandshakeError)
    assert error.untrusted


async def test_who_speaks_no_tls_is_told_apart(listen: Listen, dialler: Dialler) -> None:
    listener = await listen(Echo, tls=False)
    error = await failure(dialler, listener.port)
    assert isinstance(error, HandshakeError)
    assert not error.untrusted


async def test_a_server_that_says_nothing(certificate: Certificate) -> None:
    limits = msgspec.structs.replace(DIALLER_LIMITS, handshake_s=0.05)
    dialler = Dialler(client_context(certificate.certificate), limits)
    with socket.create_server((HOST, 0)) as silent:
        error = await failure(dialler, silent.getsockname()[1])
    assert isinstance(error, HandshakeError)
    assert error.reason == "timed out"


async def test_nobody_listens(dialler: Dialler) -> None:
    with socket.create_server((HOST, 0)) as gone:
        port = gone.getsockname()[1]
    caller = Caller()
    with pytest.raises(ConnectionRefusedError):
        await dialler.open(HOST, port, caller, "localhost")
    assert caller.lost == []


@pytest.mark.parametrize(
    ("host", "port"), [("a..b", 443), ("a" * 64 + ".example", 443), (HOST, 65_536), (HOST, 99_999)]
)
async def test_there_is_no_such_place(host: str, port: int, dialler: Dialler) -> None:
    with pytest.raises(OSError, match=r"no name of a host|no port"):
        await dialler.open(host, port, Caller(), "localhost")


async def test_the_server_hangs_up(listen: Listen, dialler: Dialler) -> None:
    servers: list[Echo] = []

    def accept() -> Echo:
        servers.append(Echo())
        return servers[-1]

    listener = await listen(accept)
    caller = Caller(b"x")
    await dialler.open(HOST, listener.port, caller, "localhost")
    await until(lambda: caller.heard == b"x")
    assert servers[0].transport is not None
    servers[0].transport.close()
    await until(lambda: caller.lost == [None])


async def test_closing_drops_who_does_not_end(certificate: Certificate) -> None:
    dialler = Dialler(client_context(certificate.certificate))
    with socket.create_server((HOST, 0)) as silent:
        caller = Caller()
        await dialler.open(HOST, silent.getsockname()[1], caller, "localhost")
        await dialler.close(0.01)
        await until(lambda: len(caller.lost) == 1)


async def test_what_is_the_matter_with_a_certificate(listen: Listen, dialler: Dialler) -> None:
    listener = await listen(Echo)
    caller = Caller()
    await dialler.open(HOST, listener.port, caller, "elsewhere.example")
    await until(lambda: bool(caller.lost))
    error = caller.lost[0]
    assert isinstance(error, HandshakeError)
    assert reason(error) == (
        "tls: Hostname mismatch, certificate is not valid for 'elsewhere.example'"
    )


@pytest.mark.parametrize(("host", "port"), [("a" * 64 + ".example", 443), ("localhost", 99_999)])
async def test_what_is_no_address(dialler: Dialler, host: str, port: int) -> None:
    with pytest.raises(OSError, match="is no "):
        await dialler.open(host, port, Caller())
