"""An HTTP proxy on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from muster.net.tunnel import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self

HOST = "127.0.0.1"


class ProxyServer:
    """A proxy that connects, or answers what the test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: bytes | None = None
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        if self.answer is not None:
            writer.write(self.answer)
            writer.close()
            return
        host, _, port = head.split(" ")[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        """Listen while the block runs."""
        server = await asyncio.start_server(self.serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        await server.wait_closed()

    @property
    def proxy(self) -> Proxy:
        return Proxy(host=HOST, port=self.port, authorization="Basic eA==")
