"""Sockets that accept connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from muster.net.stream import Limits, Shared, Stream
from muster.net.tasks import spawn
from muster.net.timers import NO_SLOT
from muster.net.tls import TlsShared, TlsStream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

_log = structlog.get_logger(__name__)

_BACKLOG: Final = 2_048
_CHECK_S: Final = 1.0
_RESUME_S: Final = 0.25
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_SPARE_FILES: Final = 64
"""Files the process may need besides connections: database, logs, journals."""


class Listener:
    """Accepts connections on one port, of one or more addresses.

    Make one with `listen`. Everything belongs to the event loop it was made in.
    """

    __slots__ = ("_closing", "_servers", "_shared", "_sockets", "_starting", "timer_slot")

    def __init__(self, sockets: list[socket.socket], shared: Shared) -> None:
        self._sockets = sockets
        self._shared = shared
        self._servers: list[asyncio.AbstractServer] = []
        self._starting = False
        self._closing = False
        self.timer_slot = NO_SLOT

    @classmethod
    async def listen(
        cls,
        address: str,
        port: int,
        context: ssl.SSLContext | None,
        protocol_factory: Callable[[], asyncio.Protocol],
        limits: Limits | None = None,
    ) -> Listener:
        """Start accepting.

        Args:
            address: address or name to bind; `""` for all addresses of the machine.
            port: port, or 0 for any free one.
            context: for TLS (`tls.server_context`), or `None` for plain connections.
            protocol_factory: makes the application protocol of one connection.
            limits: what peers may take.

        Raises:
            OSError: the address cannot be bound.
        """
        limits = _within_open_files(limits or Limits())
        shared = (
            Shared(protocol_factory, limits)
            if context is None
            else TlsShared(protocol_factory, limits, context)
        )
        listener = cls(await _bind(address, port), shared)
        if isinstance(shared, TlsShared):
            shared.pause_accepting = listener._pause
        await listener._start()
        shared.wheel.start(listener, shared.loop.time() + _CHECK_S)
        return listener

    @classmethod
    async def listen_unix(
        cls,
        path: Path,
        mode: int,
        protocol_factory: Callable[[], asyncio.Protocol],
        limits: Limits | None = None,
    ) -> Listener:
        """Start accepting on a Unix socket.

        Args:
            path: of the socket; what is there gives way.
            mode: permission bits of the socket: who may write to it may connect.
            protocol_factory: makes the application protocol of one connection.
            limits: what peers may take.

        Raises:
            OSError: the path cannot be bound; it may have 107 bytes.
        """
        shared = Shared(protocol_factory, _within_open_files(limits or Limits()))
        listener = cls([_bind_path(path, mode)], shared)
        await listener._start()
        shared.wheel.start(listener, shared.loop.time() + _CHECK_S)
        return listener

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """The number of open connections, those in their handshake included."""
        return len(self._shared.streams)

    @property
    def _name(self) -> str:
        return str(self._sockets[0].getsockname())

    def use_context(self, context: ssl.SSLContext) -> None:
        """Serve new connections with another certificate; open ones keep theirs."""
        if isinstance(self._shared, TlsShared):
            self._shared.context = context

    async def close(self, drain_s: float = 5.0) -> None:
        """Stop accepting, let connections finish, then drop what is left.

        Args:
            drain_s: seconds that application protocols have to finish what they are at.
        """
        self._closing = True
        shared = self._shared
        shared.wheel.stop(self)
        self._stop()
        for accepting in self._sockets:
            accepting.close()
        shared.drained = asyncio.Event()
        for stream in list(shared.streams):
            stream.shutdown()
        await self._drained(drain_s)
        left = list(shared.streams)
        if left:
            _log.info("connections dropped at shutdown", count=len(left))
        for stream in left:
            stream.abort()
        await self._drained(_CHECK_S)

    def timer_expired(self, now: float) -> float:
        """Look after accepting (`Timed`)."""
        if self._closing:
            return 0.0
        if self._servers:
            if not all(_is_open(server) for server in self._servers):
                # uvloop closes a listening socket whose accept fails, without a word.
                _log.error("listening socket was lost, opening it again", at=self._name)
                self._stop()
                self._start_soon()
            return now + _CHECK_S
        if isinstance(self._shared, TlsShared):
            self._shared.handshakes.drop_stalled(now)
            if not self._shared.handshakes.roomy:
                return now + _RESUME_S
        self._start_soon()
        return now + _CHECK_S

    def _accepted(self) -> Stream:
        shared = self._shared
        return TlsStream(shared) if isinstance(shared, TlsShared) else Stream(shared)

    async def _start(self) -> None:
        loop = self._shared.loop
        for accepting in self._sockets:
            if self._closing:
                return
            # A duplicate, because the loop closes what it is given when accepting is paused, and
            # those who wait in the kernel's queue must not be thrown out by that.
            create = (
                loop.create_unix_server
                if accepting.family == socket.AF_UNIX
                else loop.create_server
            )
            self._servers.append(
                await create(self._accepted, sock=accepting.dup(), backlog=_BACKLOG)
            )

    def _start_soon(self) -> None:
        if not self._starting:
            self._starting = True
            spawn(self._restart(), "listener restart")

    async def _restart(self) -> None:
        try:
            await self._start()
        except OSError as error:
            _log.warning("cannot accept connections, trying again", error=str(error))
            self._stop()
        finally:
            self._starting = False

    def _stop(self) -> None:
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    def _pause(self) -> None:
        """Leave newcomers in the kernel's queue for a moment."""
        if not self._closing and not self._starting:
            self._stop()
            self._shared.wheel.start(self, self._shared.loop.time() + _RESUME_S)

    async def _drained(self, timeout_s: float) -> None:
        if self._shared.streams and self._shared.drained is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shared.drained.wait(), timeout_s)


async def _bind(address: str, port: int) -> list[socket.socket]:
    """Bind one socket per address behind a name, all to the same port."""
    found = await asyncio.get_running_loop().getaddrinfo(
        address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    names = dict.fromkeys((family, name) for family, _, _, _, name in found)
    bound: list[socket.socket] = []
    failure = OSError(errno.EADDRNOTAVAIL, f"no address found for {address!r}")
    for family, name in names:
        chosen = bound[0].getsockname()[1] if bound else port
        try:
            bound.append(_bind_one(family, (name[0], chosen, *name[2:]), alone=len(names) == 1))
        except OSError as error:
            failure = error
            # A machine without IPv6 may still resolve names to IPv6 addresses.
            if error.errno not in _NO_SUCH_FAMILY:
                break
    else:
        if bound:
            return bound
    for accepting in bound:
        accepting.close()
    raise failure


def _bind_one(
    family: socket.AddressFamily, name: tuple[str | int, ...], *, alone: bool
) -> socket.socket:
    accepting = socket.socket(family, socket.SOCK_STREAM)
    try:
        accepting.setblocking(False)
        accepting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" alone serves IPv4 too; beside an IPv4 address it must not claim it.
            accepting.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if alone else 1)
        accepting.bind(name)
    except OSError:
        accepting.close()
        raise
    return accepting


def _bind_path(path: Path, mode: int) -> socket.socket:
    accepting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        accepting.setblocking(False)
        path.unlink(missing_ok=True)
        # Nobody gets in between binding and setting the mode: nobody listens yet.
        accepting.bind(str(path))
        path.chmod(mode)
    except OSError:
        accepting.close()
        raise
    return accepting


def _within_open_files(limits: Limits) -> Limits:
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if open_files == resource.RLIM_INFINITY:
        return limits
    ceiling = max(open_files - _SPARE_FILES, 1)
    return msgspec.structs.replace(limits, connections=min(limits.connections, ceiling))


def _is_open(server: asyncio.AbstractServer) -> bool:
    sockets = getattr(server, "sockets", ())
    return bool(sockets) and all(one is not None and one.fileno() >= 0 for one in sockets)
