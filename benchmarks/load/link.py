"""One TLS connection of a client, on request with a WebSocket in it, with little cost of its own.

Not that of `muster.net.dial`, which joins what is written in one turn of the loop: here each write
is one record and one system call, whatever server is measured.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import struct
from pathlib import Path
from typing import cast

from benchmarks.load.job import Job


def client_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts one authority and speaks TLS 1.3 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=Path(ca_file).read_text())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class WebSocket:
    """The least of a WebSocket's client: binary messages, no extensions, no fragments from it.

    Args:
        host: for the request.
        path: for the request.
        protocol: the subprotocol.
    """

    __slots__ = ("_buffer", "open", "request")

    def __init__(self, host: str, path: str, protocol: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        ).encode()
        self.open = False
        self._buffer = b""

    def wrap(self, data: bytes) -> bytes:
        """Return a message as a frame. The mask is zero, which is allowed and costs nothing."""
        size = len(data)
        if size < 126:
            return bytes((0x82, 0x80 | size, 0, 0, 0, 0)) + data
        if size < 65_536:
            return struct.pack(">BBHI", 0x82, 0x80 | 126, size, 0) + data
        return struct.pack(">BBQI", 0x82, 0x80 | 127, size, 0) + data

    def unwrap(self, data: bytes) -> bytes:
        """Take what the server sent and return the contents of the messages that are complete.

        Raises:
            ConnectionError: it refuses the WebSocket, or closes it.
        """
        self._buffer += data
        if not self.open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return b""
            if not head.startswith(b"HTTP/1.1 101 "):
                raise ConnectionError(head.split(b"\r\n", 1)[0].decode())
            self.open = True
            self._buffer = rest
        contents = []
        while len(self._buffer) >= 2:
            start, size = 2, self._buffer[1]
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(self._buffer[2:start])
            if len(self._buffer) < start + size or len(self._buffer) < start:
                break
            kind = self._buffer[0] & 0x0F
            if kind == 8:
                raise ConnectionError("WebSocket closed")
            if kind < 8:
                contents.append(self._buffer[start : start + size])
            self._buffer = self._buffer[start + size :]
        return b"".join(contents)


class Link(asyncio.Protocol):
    """Pumps between a plain transport and `ssl`; subclasses say what is talked."""

    __slots__ = ("_incoming", "_outgoing", "_secure", "_tls", "_websocket", "transport")

    def __init__(
        self, context: ssl.SSLContext, host: str, websocket: WebSocket | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._websocket = websocket
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
        self._tls.write(self._websocket.wrap(data) if self._websocket else data)
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
            if self._websocket is not None:
                self._unwrap(self._websocket, found)
            else:
                self.received(found)

    def _unwrap(self, websocket: WebSocket, data: bytes) -> None:
        fresh = not websocket.open
        try:
            found = websocket.unwrap(data)
        except ConnectionError as error:
            self.transport.abort()
            self.closed(str(error))
            return
        if fresh and websocket.open:
            self.secured()
        if found:
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
            if self._websocket is None:
                self._flush()
                self.secured()
            else:
                self._tls.write(self._websocket.request)
                self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())


class Dialler:
    """Opens links to the server of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._context = client_context(job.ca_file)
        self._turn = 0

    def link_arguments(self) -> tuple[ssl.SSLContext, str, WebSocket | None]:
        """Return what `Link` takes."""
        job = self._job
        websocket = None
        if job.websocket:
            websocket = WebSocket(job.host, *job.websocket)
        return self._context, job.host, websocket

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
