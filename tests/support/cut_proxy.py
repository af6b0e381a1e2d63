"""A wire that can be cut: forwards TCP to another place until it is told not to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class CutProxy:
    """Forwards from free ports of a loopback address to ports of another one.

    Args:
        listen: address of its own.
        target: address to forward to.
        ports: of the target.
    """

    def __init__(self, listen: str, target: str, ports: tuple[int, ...]) -> None:
        self._listen = listen
        self._target = target
        self._targets = ports
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._whole = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self.ports: tuple[int, ...] = ()
        self.connections = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.ports = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break every connection off, and let no new one through."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def restore(self) -> None:
        """Forward again."""
        self._whole = True

    async def _open(self) -> tuple[int, ...]:
        for port in self._targets:
            server = await asyncio.start_server(
                lambda reader, writer, port=port: self._forward(reader, writer, port),
                self._listen,
            )
            self._servers.append(server)
        return tuple(server.sockets[0].getsockname()[1] for server in self._servers)

    async def _cut(self) -> None:
        self._whole = False
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        await self._cut()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest, timeout=5)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            there, back = await asyncio.open_connection(self._target, port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._writers |= both
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
