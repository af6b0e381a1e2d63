"""Loopback servers and clients for the tests of `muster.net`."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
PATIENCE_S = 10.0
"""How long anything may take before a test gives up. Never what a test measures."""

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


@dataclass(frozen=True)
class Certificate:
    """A self-signed server certificate for `localhost`."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=36_500))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        made = cls(directory / "server.pem", directory / "server.key")
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def client(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.certificate)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def connect(port: int, context: ssl.SSLContext | None = None) -> tuple[Reader, Writer]:
    name = "localhost" if context is not None else None
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.open_connection(
            HOST, port, ssl=context, server_hostname=name, limit=1 << 20
        )


async def read_all(reader: Reader) -> bytes:
    """Read until the peer ends the stream."""
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read(-1)


async def read(reader: Reader, size: int) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readexactly(size)


def raw_socket(port: int) -> socket.socket:
    """Return a connected, non-blocking TCP socket."""
    connected = socket.create_connection((HOST, port))
    connected.setblocking(False)
    return connected


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await asyncio.sleep(0.005)


async def hang_up(*writers: Writer) -> None:
    for writer in writers:
        writer.close()
    for writer in writers:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass
