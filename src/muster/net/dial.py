"""TLS connections that we open: the same pump as the listener's, in the role of the client.

What goes wrong is told to the protocol of the connection and not to the log: whoever dials wants to
know. Its `connection_lost` comes also when `connection_made` never came.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, ClassVar, Final, final

from muster.net.stream import CONNECTING, Limits
from muster.net.tls import TlsShared, TlsStream, tls_reason
from muster.net.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster.net.tunnel import Proxy

DIALLER_LIMITS: Final = Limits(
    handshake_s=30.0, first_byte_s=60.0, write_stall_s=60.0, write_buffer=1024 * 1024
)
"""`first_byte_s` is how long a server may take for its first word: the SDKs give CONNACK 60 s
(hub-device.md 2.2)."""

_LAST_PORT: Final = 65_535
_RESOLVED_FOR_S: Final = 30.0
_NEXT_ADDRESS_S: Final = 5.0
"""How long an address may take before the next one is tried."""


class HandshakeError(ConnectionError):
    """TLS could not be agreed on, or broke later.

    Args:
        reason: OpenSSL's short reason, for example `certificate verify failed`.
        untrusted: whether it is the server's certificate that was refused.
        detail: what is the matter with it, for people: `certificate is not yet valid`.
    """

    layer: ClassVar[str] = "tls"
    """What could not be agreed on."""

    def __init__(self, reason: str, *, untrusted: bool = False, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.untrusted = untrusted
        self.detail = detail


def reason(error: OSError) -> str:
    """Return in a few words why a connection was not made, or not to be used."""
    if isinstance(error, HandshakeError):
        return f"{error.layer}: {error.detail or error.reason}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    return (error.strerror or str(error) or type(error).__name__).lower()


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Make the context of a client: TLS 1.2 or 1.3, the server's name and certificate checked.

    Args:
        ca_file: PEM file with the certificates to trust; `None` for the system's.

    Raises:
        OSError: the file cannot be read.
        ssl.SSLError: the file holds no certificate.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@final
class Dialler:
    """Opens TLS connections.

    Args:
        context: of TLS, `client_context`.
        limits: of each connection.
    """

    __slots__ = ("_resolved", "_shared")

    def __init__(self, context: ssl.SSLContext, limits: Limits = DIALLER_LIMITS) -> None:
        self._shared = TlsShared(asyncio.Protocol, limits, context)
        self._resolved: dict[tuple[str, int], tuple[float, list[str]]] = {}

    async def open(
        self,
        host: str,
        port: int,
        protocol: asyncio.Protocol,
        server_name: str | None = None,
        proxy: Proxy | None = None,
    ) -> asyncio.Transport:
        """Connect, and leave the handshake and all that follows to `protocol`.

        Args:
            host: name or address to connect to; a name is asked for each 30 s at most.
            port: likewise.
            protocol: its `connection_made` comes after the handshake.
            server_name: what the server's certificate must be for; `host` unless told.
            proxy: to go through, which then resolves the name; `None` for none.

        Returns:
            The connection, for whoever wants to give up before the handshake is finished.

        Raises:
            OSError: nothing answers there. The protocol is told nothing.
        """
        stream = DialledTlsStream(self._shared, protocol, server_name or host)
        if proxy is None:
            await self._connect(host, port, lambda: stream)
            return stream
        tunnel = Tunnel(proxy, host, port)
        raw = await self._connect(proxy.host, proxy.port, lambda: tunnel)
        try:
            await tunnel.ready()
        except BaseException:
            raw.abort()
            raise
        raw.set_protocol(stream)
        stream.connection_made(raw)
        return stream

    async def _connect(
        self, host: str, port: int, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> asyncio.Transport:
        """Connect to the first address that answers, in the order in which they are found."""
        loop = asyncio.get_running_loop()
        addresses = await self._addresses(host, port)
        for address in addresses:
            last = address == addresses[-1]
            try:
                # A network may swallow one family of addresses: the other is to have its turn.
                async with asyncio.timeout(None if last else _NEXT_ADDRESS_S):
                    raw, _ = await loop.create_connection(protocol_factory, address, port)
                    return raw
            except OSError:  # `TimeoutError` is one
                if last:
                    raise
        raise OSError(f"{host} has no address")

    async def close(self, drain_s: float) -> None:
        """Wait until every connection is closed, then drop what is left; open no more after it.

        Args:
            drain_s: seconds to wait.
        """
        shared = self._shared
        if shared.streams:
            shared.drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(shared.drained.wait(), drain_s)
        for stream in list(shared.streams):
            stream.abort()

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = self._resolved.get((host, port))
        if found is None or loop.time() - found[0] > _RESOLVED_FOR_S:
            if not 0 < port < 65_536:
                raise OSError(f"{port} is no port")
            try:
                answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except UnicodeError as error:
                raise OSError(f"{host} is no name of a host: {error}") from None
            found = loop.time(), list(dict.fromkeys(str(answer[4][0]) for answer in answers))
            self._resolved[host, port] = found
        return found[1]


@final
class DialledTlsStream(TlsStream):
    """The client's end of a TLS connection."""

    __slots__ = ("_failure", "_server_name")

    def __init__(self, shared: TlsShared, protocol: asyncio.Protocol, server_name: str) -> None:
        super().__init__(shared)
        self._inner = protocol
        self._server_name = server_name
        self._failure: Exception | None = None

    def fail(self, reason: str) -> None:
        """End an unfinished handshake."""
        self._failure = self._failure or HandshakeError(reason)
        self.abort()

    def eof_received(self) -> bool:
        """Note that the peer sends no more."""
        if self._phase == CONNECTING:
            self.fail("closed by the server")
            return True
        return super().eof_received()

    def _begin(self) -> None:
        shared = self._shared
        shared.wheel.start(self, shared.loop.time() + shared.limits.handshake_s)
        self._shake(b"")

    def _wrap(self) -> ssl.SSLObject:
        shared = self._shared
        return shared.context.wrap_bio(
            shared.incoming, shared.outgoing, server_hostname=self._server_name
        )

    def _refuse(self, error: ssl.SSLError | ssl.CertificateError) -> None:
        failure = HandshakeError(tls_reason(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            failure.untrusted = True
            failure.detail = error.verify_message.rstrip(".")
        self._failure = failure
        self.abort()

    def _fail_open(self, error: ssl.SSLError) -> None:
        self._failure = HandshakeError(tls_reason(error))
        self._drain_alert()
        self.abort()

    def _introduce(self) -> None:
        self._inner.connection_made(self)

    def _release(self, exc: Exception | None) -> None:
        super()._release(self._failure or exc)
