"""AMQP connections: bytes on one side, the owner of the wire connection on the other.

Knows the life of a connection (open in time, idle time-outs, who may write how much) and nothing
of devices or addresses. What an acceptor is told and asked is in `AmqpAcceptor` and `AmqpOwner`;
the answers are methods of `muster.wire.amqp`, whose package docstring has an example. They can be
called at any time from the loop's thread: what they say leaves by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

import msgspec
import structlog

from muster.net.peer import (
    CLOSED_BY_CLIENT,
    NOT_HEARD,
    SERVICE_STOPS,
    SLOW_READER,
    Peer,
    certificate_of,
    lost_because,
    remote_of,
)
from muster.net.stream import reset
from muster.net.timers import NO_SLOT, running_wheel
from muster.wire.amqp.connection import ServerConnection
from muster.wire.amqp.errors import CONNECTION_FORCED, FRAMING_ERROR, RemoteProtocolError
from muster.wire.amqp.limits import ConnectionLimits
from muster.wire.amqp.performatives import Close, Error
from muster.wire.amqp.sasl import MECHANISMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster.wire.amqp.events import Event

_log = structlog.get_logger(__name__)

CLOSED_BY_OWNER: Final = "closed by the service"
"""Reason in `AmqpOwner.closed` when the owner knows it: it has closed the wire connection."""
_CONGESTED: Final = 256 * 1024
"""Bytes on their way to a client that are enough for the moment."""


class AmqpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may take. Times in seconds, sizes in bytes.

    Attributes:
        open_s: time until the connection is open, from both sides.
        write_buffer: bytes a client may leave unread before it is closed as a slow reader.
        connection: what it may take on the wire.
    """

    open_s: float = 30.0
    write_buffer: int = 8 * 1024 * 1024
    connection: ConnectionLimits = msgspec.field(default_factory=ConnectionLimits)


class AmqpPeer(Peer, Protocol):
    """What an owner may ask of the socket below its connection. Never blocks, never raises."""

    @property
    def congested(self) -> bool:
        """Whether enough is on its way to the client.

        Whoever sends much waits until it is not: `AmqpOwner.writable` is called then.
        """

    def drop(self, reason: str) -> None:
        """Close without a word of AMQP; `AmqpOwner.closed` follows.

        Clients come back at once, as after any lost connection. A close frame costs Node's SDK
        45 seconds first (azure-iot-amqp-base 2.5.3).
        """


class AmqpOwner(Protocol):
    """One connection, as whoever answers it sees it. Calls must not block."""

    def received(self, events: list[Event]) -> None:
        """Events came in, in order. Each is to be answered, now or later.

        Nothing is received from a client until its SASL and open frames are answered. An exception
        costs the connection.
        """

    def writable(self) -> None:
        """More can be sent: called after `AmqpPeer.congested` was true when asked, and is not."""

    def closed(self, reason: str) -> None:
        """The connection is over, and everything on it. Called exactly once.

        Args:
            reason: why, for logs and decision records.
        """


class AmqpAcceptor(Protocol):
    """Finds an owner for every connection."""

    def accept(self, connection: ServerConnection, peer: AmqpPeer) -> AmqpOwner:
        """Return the owner of a new connection, of which nothing is known yet.

        Args:
            connection: what the owner answers with.
            peer: the socket below it.
        """


AmqpProtocolFactory: TypeAlias = "Callable[[], AmqpConnection]"


def amqp_protocol_factory(
    acceptor: AmqpAcceptor,
    container_id: str,
    *,
    mechanisms: Sequence[str] = MECHANISMS,
    limits: AmqpLimits | None = None,
    transport: str = "amqp",
) -> AmqpProtocolFactory:
    """Return what makes the protocol of one AMQP connection, for `Listener.listen`.

    Args:
        acceptor: asked for an owner of every connection.
        container_id: our name in the open frame.
        mechanisms: SASL mechanisms that are offered.
        limits: what clients may take.
        transport: what `AmqpPeer.transport` says.
    """
    service = _Service(acceptor, container_id, mechanisms, limits or AmqpLimits(), transport)
    return lambda: AmqpConnection(service)


class _Service:
    """What all AMQP connections of a factory share."""

    __slots__ = ("acceptor", "container_id", "limits", "loop", "mechanisms", "transport", "wheel")

    def __init__(
        self,
        acceptor: AmqpAcceptor,
        container_id: str,
        mechanisms: Sequence[str],
        limits: AmqpLimits,
        transport: str,
    ) -> None:
        self.acceptor = acceptor
        self.container_id = container_id
        self.mechanisms = tuple(mechanisms)
        self.limits = limits
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.wheel = running_wheel()


class AmqpConnection(asyncio.Protocol):
    """One AMQP connection; to its owner it is the `AmqpPeer`."""

    __slots__ = (
        "_asked",
        "_busy",
        "_closed",
        "_opened",
        "_owner",
        "_read_paused",
        "_reading",
        "_reason",
        "_scheduled",
        "_service",
        "_sink",
        "_wire",
        "_write_paused",
        "last_received",
        "timer_slot",
    )

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._wire = ServerConnection(
            service.container_id,
            mechanisms=service.mechanisms,
            limits=service.limits.connection,
            wake=self._woken,
        )
        self._sink: asyncio.Transport = cast("asyncio.Transport", None)
        # None before there is one and after it was told of the end.
        self._owner: AmqpOwner = cast("AmqpOwner", None)
        self._opened = False
        self._closed = False
        self._reason = ""
        # Whether events are being handed on, so that whatever is said meanwhile leaves after that.
        self._busy = False
        self._scheduled = False
        self._read_paused = False  # by the owner
        self._reading = True  # as the transport was told last
        self._write_paused = False
        self._asked = False  # whether the owner knows that it is congested
        self.last_received = 0.0
        self.timer_slot = NO_SLOT

    # AmqpPeer

    @property
    def transport(self) -> str:
        """`amqp` or `amqp-ws`."""
        return self._service.transport

    @property
    def remote(self) -> str:
        """The client's `address:port`."""
        return remote_of(self._sink)

    @property
    def certificate(self) -> bytes | None:
        """DER of the client's certificate."""
        return certificate_of(self._sink)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._closed or self._wire.closed

    @property
    def congested(self) -> bool:
        """Whether enough is on its way to the client."""
        congested = self._write_paused or self._wire.unsent >= _CONGESTED
        if congested:
            self._asked = True
        return congested

    def drop(self, reason: str) -> None:
        """Close without a word of AMQP."""
        if not self._closed:
            self._end(reason)
            self._sink.close()

    def reset(self, reason: str) -> None:
        """Break the connection off."""
        if not self._closed:
            self._end(reason)
            reset(self._sink)

    def pause_reading(self) -> None:
        """Stop receiving."""
        self._read_paused = True
        self._regulate()

    def resume_reading(self) -> None:
        """Receive again."""
        self._read_paused = False
        self._regulate()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find the owner, and wait for the client to open the connection."""
        service = self._service
        self._sink = cast("asyncio.Transport", transport)
        self.last_received = service.loop.time()
        service.wheel.start(self, self.last_received + service.limits.open_s)
        self._owner = service.acceptor.accept(self._wire, self)

    def data_received(self, data: bytes) -> None:
        """Decode what came in and hand it on."""
        if not self._closed:
            self.last_received = self._service.loop.time()
            self._take(data)

    def eof_received(self) -> bool | None:
        """The client is gone, and did not say close."""
        if not self._closed:
            self._end(CLOSED_BY_CLIENT)
            self._sink.close()
        return None

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused = False
        if self._asked:
            # Not now: the stream may be in the middle of writing what it was given before.
            self._woken()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, whoever closed."""
        if not self._closed:
            self._end(lost_because(exc))
        owner, self._owner = self._owner, cast("AmqpOwner", None)
        if owner is None:
            return
        try:
            owner.closed(self._reason)
        except Exception:  # noqa: BLE001 - there is nothing left to close
            _log.exception("amqp owner failed", where="closed", remote=self.remote)

    def shutdown(self) -> None:
        """Close because the service stops; clients come again by themselves."""
        self.drop(SERVICE_STOPS)

    def close(self, reason: str) -> None:
        """Close because what carries the connection cannot carry it any more."""
        self._close(reason, Error(FRAMING_ERROR, reason))

    # Within.

    def timer_expired(self, now: float) -> float:
        """Enforce the deadline of open, and the idle time-outs of both sides (`Timed`)."""
        if self._closed:
            return 0.0
        if not self._opened:
            _log.info("amqp connection closed", reason="not open in time", remote=self.remote)
            self._close("not open in time", Error(CONNECTION_FORCED, "Not open in time."))
            return 0.0
        reason = CLOSED_BY_OWNER if self._wire.closed else NOT_HEARD
        due = self._wire.tick(now, reading=self._reading)
        self._flush(reason)
        return due

    def _take(self, data: bytes) -> None:
        """Hand on what the client says with these bytes, and send what is said to it."""
        wire = self._wire
        reason = CLOSED_BY_OWNER
        self._busy = True
        while True:
            fault: RemoteProtocolError | None = None
            try:
                events = wire.receive(data)
            except RemoteProtocolError as error:
                fault = error
                events = error.events
                reason = error.description
                _log.info(
                    "amqp protocol violated",
                    reason=reason,
                    condition=error.condition,
                    remote=self.remote,
                )
            waits = wire.suspended
            if events:
                if type(events[-1]) is Close:
                    reason = CLOSED_BY_CLIENT
                if not self._hand_on(events):
                    reason = "internal error"
            if fault is not None or not waits or wire.suspended:
                break
            # The owner has answered: on with what came behind the question.
            data = b""
        self._busy = False
        if not self._opened and wire.opened:
            self._opened = True
            service = self._service
            service.wheel.start(self, wire.tick(service.loop.time()))
        self._flush(reason)

    def _hand_on(self, events: list[Event]) -> bool:
        try:
            self._owner.received(events)
        except Exception:  # noqa: BLE001 - costs this connection only
            _log.exception("amqp owner failed", where="received", remote=self.remote)
            self._wire.close(Error("amqp:internal-error"))
            return False
        return True

    def _flush(self, reason: str) -> None:
        """Send what is to be sent, and close if that was the last; `reason` is why."""
        data = self._wire.outgoing()
        if data:
            self._sink.write(data)
            if self._write_paused and (
                self._sink.get_write_buffer_size() > self._service.limits.write_buffer
            ):
                _log.info("amqp connection closed", reason=SLOW_READER, remote=self.remote)
                self._end(SLOW_READER)
                self._sink.abort()
                return
        if self._wire.closed:
            if not self._closed:
                self._end(reason)
                self._sink.close()
            return
        self._regulate()
        self._tell_writable()

    def _woken(self) -> None:
        """The wire connection has something to say, outside of `_take`."""
        if not self._busy and not self._scheduled and not self._closed:
            self._scheduled = True
            self._service.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._closed:
            self._take(b"")

    def _regulate(self) -> None:
        """Read only while neither the owner nor an open question of the client's is against it."""
        reading = not self._read_paused and not self._wire.suspended
        if reading == self._reading or self._closed:
            return
        self._reading = reading
        if reading:
            self.last_received = self._service.loop.time()
            self._sink.resume_reading()
        else:
            self._sink.pause_reading()

    def _tell_writable(self) -> None:
        if self._asked and not self._write_paused and self._owner is not None:
            self._asked = False
            try:
                self._owner.writable()
            except Exception:  # noqa: BLE001 - costs this connection only
                _log.exception("amqp owner failed", where="writable", remote=self.remote)
                self._close("internal error", Error("amqp:internal-error"))

    def _close(self, reason: str, error: Error) -> None:
        if not self._closed:
            self._wire.close(error)
            self._flush(reason)

    def _end(self, reason: str) -> None:
        """Note that it is over, for the wire connection as well."""
        self._closed = True
        self._reason = reason
        self._service.wheel.stop(self)
        self._wire.close()
