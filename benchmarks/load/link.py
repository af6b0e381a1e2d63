"""One TLS connection of a client, with little cost of its own.

Not that of `muster.net.dial`, which joins what is written in one turn of the loop: here each write
is one record and one system call, whatever server is measured.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import cast

from benchmarks.load.job import Job


def client_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts one authority and speaks TLS 1.3 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=Path(ca_file).read_text())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Link(asyncio.Protocol):
    """Pumps between a plain transport and `ssl`; subclasses say what is talked."""

    __slots__ = ("_incoming", "_outgoing", "_secure", "_tls", "transport")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._secure = False
        self.transport: asyncio.Transport

    def secured(self) -> None:
        """Start talking: the handshake is done."""
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Take what the server says."""
        raise NotImplementedError

    def closed(self, reason: str) -> None:
        """Note that the connection is gone."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send to the server."""
        self._tls.write(data)
        self._flush()

    def close(self) -> None:
        """Close in good order."""
        self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._secure:
            self._shake_hands()
            if not self._secure:
                return
        while True:
            try:
                found = self._tls.read(65_536)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError as error:
                self.transport.abort()
                self.closed(type(error).__name__)
                return
            if not found:
                return
            self.received(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed(type(exc).__name__ if exc else "closed")

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self.transport.abort()
            self.closed(error.reason or "handshake")
        else:
            self._secure = True
            self._flush()
            self.secured()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())


class Dialler:
    """Opens links to the server of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._context = client_context(job.ca_file)
        self._turn = 0

    def link_arguments(self) -> tuple[ssl.SSLContext, str]:
        """Return what `Link` takes."""
        return self._context, self._job.host

    async def open(self, link: Link) -> bool:
        """Connect; a failure is told to the link."""
        job = self._job
        local = None
        if job.sources:
            self._turn += 1
            local = (job.sources[self._turn % len(job.sources)], 0)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: link, job.address, job.port, local_addr=local
            )
        except OSError as error:
            link.closed(f"connect: {error.strerror}")
            return False
        return True
