"""The ports an instance listens on."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from typing import TYPE_CHECKING, Final, final

from muster.config import DEFAULT_HTTPS_PORT, FALLBACK_HTTPS_PORT
from muster.errors import UnavailableError
from muster.net.listener import Listener

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_DRAIN_S: Final = 5.0


@final
class Listeners:
    """Binds ports and keeps what listens there.

    Args:
        address: address to bind; empty for all addresses of the machine.

    Attributes:
        context: for TLS; to be set before anything is bound.
        notes: what the operator should know.
    """

    def __init__(self, address: str) -> None:
        self.context: ssl.SSLContext | None = None
        self.notes: list[str] = []
        self._address = address
        self._listeners: list[Listener] = []

    def connections(self) -> list[tuple[str, float]]:
        """Return how many connections each port has."""
        return [(str(each.port), each.connections) for each in self._listeners]

    def use_context(self, context: ssl.SSLContext) -> None:
        """Serve new connections with another certificate."""
        for listener in self._listeners:
            listener.use_context(context)

    async def bind(self, port: int, factory: Callable[[], asyncio.Protocol]) -> int:
        """Listen with TLS and return the port, which 0 leaves open.

        Raises:
            UnavailableError: it cannot be bound; code `port-unavailable`.
        """
        return await self._bind(port, self.context, factory)

    async def bind_https(self, port: int | None, factory: Callable[[], asyncio.Protocol]) -> int:
        """Listen for HTTPS; with no port given on 443, or on 8443 where that is barred."""
        if port is not None:
            return await self.bind(port, factory)
        try:
            return await self.bind(DEFAULT_HTTPS_PORT, factory)
        except UnavailableError as error:
            bound = await self.bind(FALLBACK_HTTPS_PORT, factory)
            self.notes.append(
                f"HTTPS is on {FALLBACK_HTTPS_PORT}, but the SDKs' WebSocket and HTTPS transports "
                f"know {DEFAULT_HTTPS_PORT} only. {error.message}"
            )
            return bound

    async def bind_plain(self, port: int, factory: Callable[[], asyncio.Protocol]) -> int | None:
        """Listen without TLS, unless the port is 0."""
        if not port:
            return None
        bound = await self._bind(port, None, factory)
        if not _is_loopback(self._address):
            self.notes.append(
                f"Port {bound} is AMQP without TLS, and not on a loopback address: whoever sees "
                "the network can read and use the tokens. Keep it off the network, or take "
                "--listen 127.0.0.1."
            )
        return bound

    async def close(self) -> None:
        """Stop accepting, and let connections finish."""
        await asyncio.gather(*(listener.close(_DRAIN_S) for listener in self._listeners))

    async def _bind(
        self, port: int, context: ssl.SSLContext | None, factory: Callable[[], asyncio.Protocol]
    ) -> int:
        address = self._address
        try:
            listener = await Listener.listen(address, port, context, factory)
        except OSError as error:
            reason = {
                errno.EACCES: "ports below 1024 need a privilege; run as root, or once `sudo "
                f"sysctl net.ipv4.ip_unprivileged_port_start={port}`",
                errno.EADDRINUSE: "another program listens there; "
                f"`ss -ltnp 'sport = :{port}'` names it",
                errno.EADDRNOTAVAIL: "this machine does not have that address",
            }.get(error.errno or 0, error.strerror or str(error))
            raise UnavailableError(
                f"Port {port} of {address or 'all addresses'} cannot be bound: {reason}.",
                code="port-unavailable",
            ) from None
        self._listeners.append(listener)
        return listener.port


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
