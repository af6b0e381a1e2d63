"""The line between the demo's device and the service: an HTTP proxy that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

_LOOPBACK: Final = "127.0.0.1"
_OFFICIAL: Final = 443
_CHUNK: Final = 65_536
_MOMENT_S: Final = 10.0


class Link:
    """Opens ways to the service for whoever asks with CONNECT. Use it as a context manager.

    Args:
        https_port: where the service's HTTPS really is: devices ask for 443.
    """

    def __init__(self, https_port: int) -> None:
        self._https_port = https_port
        self._whole = True
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        if self._server is not None:
            self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_MOMENT_S)

    def cut(self) -> None:
        """Break every connection off and let no new one through."""
        self._call(self._cut())

    def restore(self) -> None:
        """Let connections through again."""
        self._whole = True

    def _call(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_MOMENT_S)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, _LOOPBACK, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{_LOOPBACK}:{port}"

    async def _cut(self) -> None:
        self._whole = False
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).split()
            if not self._whole or len(head) < 2 or head[0] != b"CONNECT":
                return
            port = int(head[1].rpartition(b":")[2])
            there, away = await asyncio.open_connection(
                _LOOPBACK, self._https_port if port == _OFFICIAL else port
            )
            self._open.add(away)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(_pass_on(reader, away), _pass_on(there, writer))
            self._open.discard(away)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked finds the connection closed, and asks again
        finally:
            self._open.discard(writer)
            writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
