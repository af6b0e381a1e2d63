"""One accepted connection, seen from both sides.

A `Stream` is the protocol of the loop's raw TCP transport and, in the same object, the transport of
the application protocol above it (uvicorn's HTTP protocol, our MQTT connection). It adds what every
application protocol needs and none should repeat: deadlines, a bounded write buffer, a close that
loses nothing, a count of what is open. `TlsStream` in `tls.py` puts encryption in between.
"""

from __future__ import annotations

import asyncio
import struct
from functools import partial
from pathlib import Path
from socket import AF_UNIX, SO_LINGER, SO_PEERCRED, SOL_SOCKET
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

import msgspec
import structlog

from muster.net.summary import Summary
from muster.net.timers import NO_SLOT, running_wheel

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket
    from collections.abc import Callable

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)
_NO_LINGER: Final = struct.pack("ii", 1, 0)

# A stream's life. Plain integers because every packet compares them.
CONNECTING: Final = 0
OPEN: Final = 1
CLOSING: Final = 2
CLOSED: Final = 3


PEER_CERTIFICATE: Final = "muster.peer_certificate"
"""What `get_extra_info` gives the certificate under that the peer has the key of (DER), if any.
The key of an ASGI scope, too."""


class DoesNotReadError(ConnectionError):
    """What `connection_lost` gets when a peer was owed too much for too long."""


PEER_PROCESS: Final = "muster.peer_process"
"""What `get_extra_info` gives the `PeerProcess` of a connection over a Unix socket under."""
_CREDENTIALS: Final = struct.Struct("iII")


class PeerProcess(NamedTuple):
    """Who connected to a Unix socket, as the kernel says it (`SO_PEERCRED`, unix(7)).

    Attributes:
        pid: of the process that connected; it may have ended since, and its ID be another's.
        user: it ran as.
        group: likewise.
        started: when it was started, as `start_of` says it; empty if it was gone at once.
    """

    pid: int
    user: int
    group: int
    started: str


def start_of(pid: int) -> str:
    """Return when a process was started, which no other process of its ID has (proc(5)).

    Empty where there is none, or no `/proc`.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    # The name of its program is in brackets, and may have any character.
    return stat.rpartition(b")")[2].split()[19].decode()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one listener lets its peers take. Times in seconds, sizes in bytes.

    Attributes:
        connections: open connections; one more is closed at once. What the process may open
            (`ulimit -n`) bounds it too.
        handshakes: connections that have not finished their TLS handshake. At the cap those that
            wait longest for their peer give way; when none waits long, accepting pauses.
        handshakes_per_address: the same for one remote address, without the pause.
        handshake_grace_s: how long a handshake may wait for its peer before it can be made to
            give way.
        handshake_s: time for the whole handshake.
        first_byte_s: time until the first byte of application data.
        write_stall_s: time in which a peer that is owed data must take some of it.
        linger_s: time a peer has to close its side after we closed ours.
        write_buffer: bytes a peer may be owed; more closes the connection.
    """

    connections: int = 200_000
    handshakes: int = 2_000
    handshakes_per_address: int = 500
    handshake_grace_s: float = 1.0
    handshake_s: float = 10.0
    first_byte_s: float = 30.0
    write_stall_s: float = 60.0
    linger_s: float = 2.0
    write_buffer: int = 16 * 1024 * 1024


def reset(transport: asyncio.Transport) -> None:
    """Break a connection off: with a TCP reset where the transport is a `Stream`."""
    if isinstance(transport, Stream):
        transport.reset()
    else:
        transport.abort()


class Shared:
    """What the streams of one listener share.

    Args:
        protocol_factory: makes the application protocol of one connection; called when the
            connection may speak, so not before a TLS handshake is finished.
        limits: what peers may take.
    """

    __slots__ = ("drained", "limits", "loop", "protocol_factory", "refused", "streams", "wheel")

    def __init__(self, protocol_factory: Callable[[], asyncio.Protocol], limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = running_wheel()
        self.protocol_factory = protocol_factory
        self.limits = limits
        self.streams: set[Stream] = set()
        self.refused = Summary("connection refused")
        self.drained: asyncio.Event | None = None

    def forget(self, stream: Stream) -> None:
        """Note that a stream is closed for good."""
        self.streams.discard(stream)
        if self.drained is not None and not self.streams:
            self.drained.set()


class Stream(asyncio.Transport, asyncio.Protocol):
    """A plain TCP connection.

    As a transport it differs from the loop's own in what it adds: `close()` sends everything, then
    waits shortly for the peer so that a reset cannot overtake the last bytes, and
    `connection_lost()` comes to the application protocol right after `close()`, not when the
    kernel is done. Half-closing is not offered (`can_write_eof()` is false).
    """

    __slots__ = (
        "_eof",
        "_heard",
        "_inner",
        "_mark",
        "_peer",
        "_phase",
        "_raw",
        "_shared",
        "_since",
        "_stalled",
        "_write_paused",
        "address",
        "timer_slot",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._raw: asyncio.Transport = cast("asyncio.Transport", None)
        # None before the connection may speak and after the protocol was told of its end.
        self._inner: asyncio.Protocol = cast("asyncio.Protocol", None)
        self._phase = CONNECTING
        self._eof = False
        self._heard = False
        self._write_paused = False
        self._mark = -1
        self._since = 0.0
        self._stalled = False
        self.address: tuple[str, int] = ("", 0)
        self.timer_slot = NO_SLOT

    @property
    def remote(self) -> str:
        """The peer's `address:port`, for logs."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # Below: the protocol of the raw transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over an accepted connection."""
        shared = self._shared
        self._raw = cast("asyncio.Transport", transport)
        self.address = _address(transport.get_extra_info("peername"))
        self._peer = _peer_process(self._raw)
        if len(shared.streams) >= shared.limits.connections:
            shared.refused.add("too many connections", self.remote)
            self._phase = CLOSING
            self._raw.abort()
            return
        shared.streams.add(self)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Hand what came in to the application protocol."""
        if self._phase == OPEN:
            self._deliver(data)

    def eof_received(self) -> bool:
        """Note that the peer sends no more."""
        if self._phase == CONNECTING:
            self.abort()
        elif self._phase == CLOSING:
            self._raw.close()
        elif not self._eof:
            self._eof = True
            self._peer_finished()
        return True

    def pause_writing(self) -> None:
        """The raw transport's buffer is over its high-water mark."""
        self._write_paused = True
        if self._phase != OPEN:
            return
        self._mark = -1
        if self.timer_slot == NO_SLOT:
            shared = self._shared
            shared.wheel.start(self, shared.loop.time() + shared.limits.write_stall_s)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The raw transport's buffer is below its low-water mark."""
        self._write_paused = False
        if self._phase == OPEN:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone for good."""
        self._phase = CLOSED
        shared = self._shared
        shared.wheel.stop(self)
        shared.forget(self)
        self._release(DoesNotReadError() if self._stalled else exc)
        self._raw = cast("asyncio.Transport", None)

    # Above: the transport of the application protocol.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; silently dropped once the stream is closing."""
        if self._phase == OPEN:
            self._raw.write(data)
            if self._write_paused:
                self._check_buffer()

    def close(self) -> None:
        """Send what is pending, then close."""
        if self._phase == CONNECTING:
            self.abort()
        if self._phase != OPEN:
            return
        shared = self._shared
        now = shared.loop.time()
        self._finish()
        self._phase = CLOSING
        shared.loop.call_soon(self._release, None)
        raw = self._raw
        if raw.is_closing():
            return
        if self._eof:
            raw.close()
        else:
            try:
                raw.write_eof()
            except OSError:  # the peer has reset the connection, and nobody has told us yet
                raw.abort()
                return
            raw.resume_reading()
        self._mark = raw.get_write_buffer_size()
        self._since = now
        shared.wheel.start(self, now + shared.limits.linger_s)

    def abort(self) -> None:
        """Close at once and drop what is pending."""
        if self._phase != CLOSED:
            self._phase = CLOSING
            self._raw.abort()

    def reset(self) -> None:
        """Close at once with a TCP reset, as if the network had broken."""
        if self._phase != CLOSED:
            socket: TransportSocket = self._raw.get_extra_info("socket")
            socket.setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
            self.abort()

    def shutdown(self) -> None:
        """Let the application protocol finish what it is at, then close."""
        if self._phase == CONNECTING:
            self.abort()
        elif self._phase == OPEN:
            self._call("shutdown", getattr(self._inner, "shutdown", self.close))

    def is_closing(self) -> bool:
        """Return whether `close` or `abort` was called or the connection is lost."""
        return self._phase >= CLOSING

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes not yet taken by the kernel."""
        return self._raw.get_write_buffer_size() if self._phase != CLOSED else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark."""
        return self._raw.get_write_buffer_limits() if self._phase != CLOSED else (0, 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks between which the application protocol is asked to pause."""
        if self._phase < CLOSING:
            self._raw.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """Return false: no protocol of ours half-closes."""
        return False

    def is_reading(self) -> bool:
        """Return whether incoming data is delivered."""
        return self._phase == OPEN and self._raw.is_reading()

    def pause_reading(self) -> None:
        """Stop delivering incoming data; the peer fills its window and waits."""
        if self._phase == OPEN and not self._eof:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Deliver incoming data again."""
        if self._phase == OPEN and not self._eof:
            self._raw.resume_reading()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the application protocol."""
        return self._inner

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the application protocol, as an upgrade to WebSocket does."""
        if self._phase != CLOSED:
            self._inner = cast("asyncio.Protocol", protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername` and `sockname` as (address, port), other names as the raw transport.

        `PEER_PROCESS` is there on Unix sockets.

        The socket itself is not given away.
        """
        if name == "peername":
            return self.address
        if name == "socket" or self._phase == CLOSED:
            return default
        if name == "sockname":
            return _address(self._raw.get_extra_info(name))
        if name == PEER_PROCESS:
            return self._peer or default
        return self._raw.get_extra_info(name, default)

    # Within.

    def timer_expired(self, now: float) -> float:
        """Act on the deadline of the present phase (`Timed`)."""
        if self._phase == CLOSING:
            return self._closing_expired(now)
        if self._phase != OPEN:
            return 0.0
        limits = self._shared.limits
        if not self._heard:
            self._shared.refused.add("nothing sent", self.remote)
            self.close()
            # `close` has started the deadline of the closing phase.
            return 0.0
        if not self._write_paused:
            return 0.0
        size = self._raw.get_write_buffer_size()
        if 0 <= self._mark <= size:
            self._give_up()
            return 0.0
        self._mark = size
        return now + limits.write_stall_s

    def _closing_expired(self, now: float) -> float:
        size = self._raw.get_write_buffer_size()
        limits = self._shared.limits
        if size < self._mark:
            self._since = now
        elif not size or now - self._since >= limits.write_stall_s:
            self._raw.abort()
            return 0.0
        self._mark = size
        return now + limits.linger_s

    def _begin(self) -> None:
        """Do what comes before application data; a plain connection has nothing to do."""
        self._open()

    def _open(self) -> None:
        """Let the application protocol speak."""
        shared = self._shared
        self._phase = OPEN
        shared.wheel.start(self, shared.loop.time() + shared.limits.first_byte_s)
        self._call("connection_made", self._introduce)

    def _deliver(self, data: bytes) -> None:
        if not self._heard:
            self._heard = True
            self._shared.wheel.stop(self)
        # Not through `_call`: this is the hot path.
        try:
            self._inner.data_received(data)
        except Exception:  # noqa: BLE001 - one connection's failure must not touch the others
            self._broken("data_received")

    def _introduce(self) -> None:
        self._inner = self._shared.protocol_factory()
        self._inner.connection_made(self)

    def _peer_finished(self) -> None:
        if self._phase == OPEN and not self._call("eof_received", self._inner.eof_received):
            self.close()

    def _finish(self) -> None:
        """Write what must precede the end of the stream; a plain connection needs nothing."""

    def _check_buffer(self) -> None:
        if self._raw.get_write_buffer_size() > self._shared.limits.write_buffer:
            self._give_up()

    def _give_up(self) -> None:
        self._stalled = True
        self._shared.refused.add("peer does not read", self.remote)
        self.abort()

    def _broken(self, where: str) -> None:
        """Drop the connection because of a mistake of ours."""
        _log.exception("connection failed", where=where, remote=self.remote)
        self.abort()

    def _release(self, exc: Exception | None) -> None:
        inner, self._inner = self._inner, cast("asyncio.Protocol", None)
        if inner is not None:
            self._call("connection_lost", partial(inner.connection_lost, exc))

    def _call(self, where: str, function: Callable[[], _T]) -> _T | None:
        """Call into the application protocol; a mistake there costs this connection only."""
        try:
            return function()
        except Exception:  # noqa: BLE001 - one connection's failure must not touch the others
            self._broken(where)
            return None


def _peer_process(raw: asyncio.Transport) -> PeerProcess | None:
    """Return who has just connected: later its ID may be another's."""
    connected: TransportSocket | None = raw.get_extra_info("socket")
    if connected is None or connected.family != AF_UNIX:
        return None
    pid, user, group = _CREDENTIALS.unpack(
        connected.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    )
    return PeerProcess(pid, user, group, start_of(pid))


def _address(name: object) -> tuple[str, int]:
    """Return (address, port), without what IPv6 adds; IPv4 in IPv6 clothes is undressed."""
    if not isinstance(name, tuple) or len(name) < 2:
        return ("", 0)
    host = str(name[0])
    return (host.removeprefix("::ffff:") if "." in host else host, int(name[1]))
