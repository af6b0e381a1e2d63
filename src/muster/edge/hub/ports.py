"""The ports the edge hub listens on, and the certificate it shows there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, final

import structlog
from msgspec import Struct

from muster.net.listener import Listener
from muster.net.tasks import spawn
from muster.net.tls import server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from muster.clock import Clock
    from muster.edge.certificates.issuance import IssuedCertificate

AGAIN_S: Final = 10.0
"""Between attempts to get a certificate or a port."""
_LOOK_S: Final = 30.0
_DRAIN_S: Final = 5.0
_log = structlog.get_logger(__name__)


class CertificateSource(Protocol):
    """Issues certificates for this device's name."""

    async def __call__(self) -> IssuedCertificate:
        """Return a new one.

        Raises:
            Exception: there is none now; it is asked for again.
        """


class Port(Struct, frozen=True):
    """A port to listen on.

    Attributes:
        name: of its protocol, for people.
        number: 0 for any free one.
        protocol: makes the protocol of one connection.
    """

    name: str
    number: int
    protocol: Callable[[], asyncio.Protocol]


@final
class Ports:
    """Keeps ports open, and the certificate fresh.

    Args:
        address: to bind; empty for all addresses.
        certificates: issues them.
        clock: for their end.
    """

    def __init__(self, address: str, certificates: CertificateSource, clock: Clock) -> None:
        self._address = address
        self._certificates = certificates
        self._clock = clock
        self._listeners: dict[str, Listener] = {}
        self._context: ssl.SSLContext | None = None
        self._issued: IssuedCertificate | None = None
        self._task: asyncio.Task[None] | None = None
        self._complaints: set[str] = set()
        self.opened = asyncio.Event()

    def port(self, name: str) -> int | None:
        """Return the number of a port, `None` while it is not open."""
        listener = self._listeners.get(name)
        return None if listener is None else listener.port

    def start(self, ports: list[Port]) -> None:
        """Open ports, now or when that can be done."""
        self._task = spawn(self._keep(ports), "edge hub ports")

    async def stop(self) -> None:
        """Stop accepting, and let connections finish."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.gather(*(each.close(_DRAIN_S) for each in self._listeners.values()))
        self._listeners.clear()

    async def _keep(self, ports: list[Port]) -> None:
        while True:
            complete = await self._renew()
            if self._context is not None:
                for port in ports:
                    complete &= await self._open(port, self._context)
            if complete:
                self.opened.set()
            await asyncio.sleep(_LOOK_S if complete else AGAIN_S)

    async def _renew(self) -> bool:
        """Get a certificate when it is time; tell whether there is one."""
        if self._issued is not None and not self._issued.is_due(self._clock.now()):
            return True
        try:
            issued = await self._certificates()
            self._context = await asyncio.to_thread(_context, issued)
        except Exception as error:  # noqa: BLE001 - whoever issues may fail in any way; tried again
            self._complain("no server certificate", str(error))
            return False
        self._issued = issued
        for listener in self._listeners.values():
            listener.use_context(self._context)
        return True

    async def _open(self, port: Port, context: ssl.SSLContext) -> bool:
        if port.name in self._listeners:
            return True
        try:
            listener = await Listener.listen(self._address, port.number, context, port.protocol)
        except OSError as error:
            self._complain(f"port {port.number} ({port.name}) is not open", str(error))
            return False
        self._listeners[port.name] = listener
        _log.info("listening", protocol=port.name, port=listener.port)
        return True

    def _complain(self, what: str, reason: str) -> None:
        """Say something once."""
        if (what + reason) not in self._complaints:
            self._complaints.add(what + reason)
            _log.error(what, reason=reason)


def _context(issued: IssuedCertificate) -> ssl.SSLContext:
    """Load a certificate; the TLS library wants files, so it gets some that are on no disk.

    A disk that is full keeps nobody from connecting, and the key is never written to it.
    """
    with _in_memory(issued.chain) as certificate, _in_memory(issued.key) as key:
        return server_context(certificate, key, ["http/1.1"], ask_clients=True)


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[Path]:
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, text.encode())
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
