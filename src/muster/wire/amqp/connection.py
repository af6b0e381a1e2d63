"""The server's end of an AMQP 1.0 connection.

Bytes in, events out; answers by method, bytes out. There is no I/O and no clock: see
`ServerConnection`.

1. A client begins with a SASL header or without (hub-device.md 3.1). After SASL it begins again.
2. It opens the connection, then sessions and links, and need not wait for any answer. What it sends
   before the owner has decided about SASL or the open frame is held, not read.
3. Sessions, heartbeats, windows and the client's closing words are answered here. Everything that
   can be refused is an event (see `events`).
4. A client that breaks a rule loses the link, the session or the connection, whatever the standard
   says; it is told why.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, final

from muster.wire.amqp import bodies, decoder
from muster.wire.amqp.bodies import LAYOUTS
from muster.wire.amqp.errors import (
    FRAMING_ERROR,
    NOT_ALLOWED,
    RESOURCE_LIMIT_EXCEEDED,
    RemoteProtocolError,
)
from muster.wire.amqp.frames import (
    AMQP_FRAME,
    AMQP_HEADER,
    EMPTY_FRAME,
    SASL_FRAME,
    SASL_HEADER,
    SMALLEST_MAX_FRAME_SIZE,
    FrameBuffer,
    frame,
)
from muster.wire.amqp.limits import ConnectionLimits, Held
from muster.wire.amqp.performatives import (
    Close,
    Error,
    Open,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
)
from muster.wire.amqp.sasl import AUTH, MECHANISMS, OK
from muster.wire.amqp.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster.wire.amqp.events import Event
    from muster.wire.amqp.performatives import SaslFrame
    from muster.wire.amqp.types import Value

    Map: TypeAlias = dict[Value, Value]

MAX_FIRST_FRAME_SIZE: Final = 16_384
"""Bytes of a SASL or open frame. The standard says 512, but tokens do not fit into that; a whole
frame of memory is only for those who have opened."""

_MAX_HELD: Final = 1024 * 1024
"""Bytes that a client may send before the owner has decided. Whoever reads should stop before."""

_HEADER: Final = 0
_SASL: Final = 1
_OPENING: Final = 2
_OPEN: Final = 3
_CLOSED: Final = 4

_OPEN_CODE: Final = 0x10
_BEGIN_CODE: Final = 0x11
_DETACH_CODE: Final = 0x16
_END_CODE: Final = 0x17
_CLOSE_CODE: Final = 0x18
_SASL_INIT_CODE: Final = 0x41
_SASL_RESPONSE_CODE: Final = 0x43


@final
class ServerConnection:
    """One client's connection.

    Feed what comes in to `receive` and answer the events; send what `outgoing` returns whenever
    `wake` was called; call `tick` when it says. Methods that answer never raise, and do nothing
    when the connection, session or link they speak on is gone.

    Args:
        container_id: our name in the open frame.
        mechanisms: SASL mechanisms offered, best first; what happens in them is the owner's
            business. Without any, SASL is refused.
        limits: what the client may take.
        wake: called when there is something to send, or to be read that was held, once until
            `outgoing` is called next.

    Attributes:
        limits: what the client may take.
        held: what it has taken of them.
        mechanism: the SASL mechanism that the client was let in by; None without SASL.
        remote: the client's open frame, once it is there.
        peer_max_frame_size: what the client takes.
    """

    __slots__ = (
        "_buffer",
        "_container_id",
        "_dirty",
        "_heard",
        "_last_heard",
        "_limit",
        "_mechanisms",
        "_out",
        "_said",
        "_sessions",
        "_state",
        "_suspended",
        "_unsent",
        "_wake",
        "_woken",
        "held",
        "limits",
        "mechanism",
        "peer_max_frame_size",
        "remote",
    )

    def __init__(
        self,
        container_id: str,
        *,
        mechanisms: Sequence[str] = MECHANISMS,
        limits: ConnectionLimits | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.limits = limits or ConnectionLimits()
        self.mechanism: str | None = None
        self.remote: Open | None = None
        self.peer_max_frame_size = SMALLEST_MAX_FRAME_SIZE
        self._container_id = container_id
        self._mechanisms = tuple(mechanisms)
        self._wake = wake or _nobody
        self._woken = False
        self._state = _HEADER
        self._suspended = False
        self._buffer = FrameBuffer()
        self._limit = min(MAX_FIRST_FRAME_SIZE, self.limits.max_frame_size)
        self._out: list[bytes] = []
        self._unsent = 0
        self._sessions: dict[int, Session] = {}
        self._dirty: list[Session] = []
        self.held = Held(self.limits)
        # For `tick`: whether anything came or went since the last one, and when something came.
        self._heard = True
        self._said = True
        self._last_heard = 0.0

    # What the owner sees.

    @property
    def suspended(self) -> bool:
        """Whether it waits for the owner to answer SASL or the open frame, and reads nothing."""
        return self._suspended

    @property
    def opened(self) -> bool:
        """Whether it is open, from both sides."""
        return self._state == _OPEN

    @property
    def closed(self) -> bool:
        """Whether it is over: what `outgoing` returns now is the last."""
        return self._state == _CLOSED

    @property
    def buffered(self) -> int:
        """Bytes held of what the client sent."""
        return self._buffer.buffered + self.held.partial_size

    @property
    def unsent(self) -> int:
        """Bytes that `outgoing` would return, without what it puts together first."""
        return self._unsent

    def receive(self, data: bytes) -> list[Event]:
        """Return what these bytes say; with none, what was held.

        After the end everything is ignored.

        Raises:
            RemoteProtocolError: the client broke the protocol. It is told by what `outgoing`
                returns; the connection is over. `events` are those before the fault.
        """
        events: list[Event] = []
        if self._state == _CLOSED:
            return events
        if data:
            self._heard = True
            self._buffer.feed(data)
        try:
            if self._suspended and self._buffer.buffered > _MAX_HELD:
                _fail("too much was sent before the answer", RESOURCE_LIMIT_EXCEEDED)
            self._advance(events)
        except RemoteProtocolError as error:
            self._failed(error, events)
            raise
        except decoder.MALFORMED:
            failure = RemoteProtocolError("frame is cut off or malformed")
            self._failed(failure, events)
            raise failure from None
        return events

    def outgoing(self) -> bytes:
        """Return what is to be sent, and forget it."""
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for session in dirty:
                session.flush()
        self._woken = False
        out = self._out
        if not out:
            return b""
        self._said = True
        data = b"".join(out)
        out.clear()
        self._unsent = 0
        return data

    def tick(self, now: float, *, reading: bool = True) -> float:
        """Keep the time; to be called first when the connection is made.

        Sends an empty frame when the client's idle-time-out demands it, and closes when the client
        has been silent for too long.

        Args:
            now: seconds, on any clock that does not go back.
            reading: False while nothing is read, which is not the client's fault.

        Returns:
            When to call it next, on the same clock; 0 when the connection is over.
        """
        if self._state == _CLOSED:
            return 0.0
        patience_s = self.limits.idle_time_out * 1.5 / 1000
        if self._heard or not reading:
            self._heard = False
            self._last_heard = now
        elif now - self._last_heard >= patience_s:
            self.close(Error(RESOURCE_LIMIT_EXCEEDED, "Nothing was heard for too long."))
            return 0.0
        interval_s = patience_s / 6
        if self._state == _OPEN and self.remote is not None and self.remote.idle_time_out:
            # Looking four times as often as the client gives up, so speaking twice as often.
            interval_s = min(interval_s, max(self.remote.idle_time_out / 4000, 0.25))
            if not self._said:
                self.write(EMPTY_FRAME)
        self._said = False
        return now + interval_s

    # What the owner answers with.

    def sasl_challenge(self, challenge: bytes) -> None:
        """Ask the client for more; it answers with `SaslResponse`."""
        if self._state == _SASL and self._suspended:
            self._suspended = False
            self._write_sasl(SaslChallenge(challenge))

    def sasl_accept(self, additional_data: bytes | None = None) -> None:
        """Let the client in, which then opens the connection."""
        if self._state == _SASL and self._suspended:
            self._suspended = False
            self._state = _HEADER
            self._mechanisms = ()
            self._write_sasl(SaslOutcome(OK, additional_data))

    def sasl_refuse(self, code: int = AUTH) -> None:
        """Refuse the client; the connection is over.

        Args:
            code: of the outcome, such as `sasl.SYS_TEMP`.
        """
        if self._state == _SASL:
            self._write_sasl(SaslOutcome(code))
            self._end()

    def open(self, *, properties: Map | None = None) -> None:
        """Answer the client's open frame with ours.

        Args:
            properties: of the connection, keys symbols.
        """
        if self._state == _OPENING and self._suspended:
            self._suspended = False
            self._state = _OPEN
            self._limit = self.limits.max_frame_size
            self._write_open(properties)

    def close(self, error: Error | None = None, *, properties: Map | None = None) -> None:
        """Close the connection, with all that is on it. No events follow.

        A client that has not been answered yet is sent an open frame before, as it expects.

        Args:
            error: why.
            properties: of that open frame (dps.md 1.4).
        """
        if self._state in {_OPENING, _OPEN}:
            if self._state == _OPENING:
                self._write_open(properties)
            for session in self._dirty:
                session.flush()
            self.write(frame(0, bodies.encode(Close(error))))
            self._end()
        elif self._state != _CLOSED:
            self._touch()
            self._end()

    # For sessions and links.

    def write(self, data: bytes) -> None:
        """Send a frame."""
        if self._state != _CLOSED:
            self._out.append(data)
            self._unsent += len(data)
            self._touch()

    def to_flush(self, session: Session) -> None:
        """Flush a session before the next bytes are sent."""
        self._dirty.append(session)
        self._touch()

    def forget_session(self, session: Session) -> None:
        """Forget a session that both sides have ended."""
        self._sessions.pop(session.channel, None)

    def hold_waiting(self, size: int) -> None:
        """Account for messages that wait for the client; close when they are too many."""
        if not self.held.add_waiting(size):
            self.close(Error(RESOURCE_LIMIT_EXCEEDED, "Too many messages wait for the client."))

    # Within.

    def _advance(self, events: list[Event]) -> None:
        buffer = self._buffer
        while not self._suspended and self._state != _CLOSED:
            if self._state == _HEADER:
                header = buffer.header()
                if header is None:
                    return
                self._receive_header(header)
                continue
            found = buffer.next(self._limit)
            if found is None:
                return
            frame_type, channel, body = found
            if frame_type != (SASL_FRAME if self._state == _SASL else AMQP_FRAME):
                _fail("frame is of the wrong type", FRAMING_ERROR)
            if body:
                self._receive_frame(channel, body, events)
            elif self._state == _SASL:
                _fail("frame is empty", FRAMING_ERROR)

    def _receive_header(self, header: bytes) -> None:
        if header == AMQP_HEADER:
            self._state = _OPENING
            self._out.append(AMQP_HEADER)
            self._touch()
        elif header == SASL_HEADER and self._mechanisms:
            self._state = _SASL
            self._out.append(SASL_HEADER)
            self._write_sasl(SaslMechanisms(list(self._mechanisms)))
        else:
            # The header we would have taken is the whole answer (2.2).
            self._out.append(SASL_HEADER if self._mechanisms else AMQP_HEADER)
            self._touch()
            _fail("protocol header is unknown", FRAMING_ERROR)

    def _receive_frame(self, channel: int, body: bytes, events: list[Event]) -> None:
        code, fields, position = bodies.read_fields(body)
        if self._state == _SASL:
            self._receive_sasl(code, fields, events)
        elif self._state == _OPENING:
            if code != _OPEN_CODE:
                _fail("the first frame is not open", NOT_ALLOWED)
            self._receive_open(LAYOUTS[code].from_list(fields), events)
        elif _BEGIN_CODE < code <= _END_CODE:
            session = self._sessions.get(channel)
            if session is None and code == _DETACH_CODE:
                # azure-eventhub detaches its links after it has ended their session.
                return
            if session is None:
                _fail("channel has no session", FRAMING_ERROR)
            # Of an attach frame, only the size is asked for.
            session.receive(code, fields, body if code == 0x12 else body[position:], events)
        elif code == _BEGIN_CODE:
            self._receive_begin(channel, fields)
        elif code == _CLOSE_CODE:
            self._receive_close(LAYOUTS[code].from_list(fields), events)
        else:
            _fail("frame holds no performative that belongs here", NOT_ALLOWED)

    def _receive_sasl(self, code: int, fields: list[Value], events: list[Event]) -> None:
        if code == _SASL_INIT_CODE and self.mechanism is None:
            init: SaslInit = LAYOUTS[code].from_list(fields)
            if init.mechanism not in self._mechanisms:
                self.sasl_refuse()
                return
            self.mechanism = init.mechanism
            self._suspended = True
            events.append(init)
        elif code == _SASL_RESPONSE_CODE and self.mechanism is not None:
            response: SaslResponse = LAYOUTS[code].from_list(fields)
            self._suspended = True
            events.append(response)
        else:
            _fail("SASL frame does not belong here", NOT_ALLOWED)

    def _receive_open(self, remote: Open, events: list[Event]) -> None:
        self.remote = remote
        self.peer_max_frame_size = max(remote.max_frame_size, SMALLEST_MAX_FRAME_SIZE)
        self._suspended = True
        events.append(remote)

    def _receive_begin(self, channel: int, fields: list[Value]) -> None:
        if channel > self.limits.channel_max:
            _fail("channel is above channel-max", FRAMING_ERROR)
        if channel in self._sessions:
            _fail("channel has a session already", NOT_ALLOWED)
        begin = LAYOUTS[_BEGIN_CODE].from_list(fields)
        self._sessions[channel] = Session(self, channel, begin)

    def _receive_close(self, close: Close, events: list[Event]) -> None:
        for session in self._dirty:
            session.flush()
        self.write(frame(0, bodies.encode(Close())))
        self._end()
        events.append(close)

    def _write_open(self, properties: Map | None) -> None:
        limits = self.limits
        ours = Open(
            self._container_id,
            max_frame_size=limits.max_frame_size,
            channel_max=limits.channel_max,
            idle_time_out=limits.idle_time_out,
            properties=properties,
        )
        self.write(frame(0, bodies.encode(ours)))

    def _write_sasl(self, sasl: SaslFrame) -> None:
        self.write(frame(0, bodies.encode(sasl), frame_type=SASL_FRAME))

    def _failed(self, error: RemoteProtocolError, events: list[Event]) -> None:
        error.events = events
        if self._state in {_OPENING, _OPEN}:
            self.close(Error(error.condition, error.description))
        else:
            self._end()

    def _end(self) -> None:
        self._state = _CLOSED
        self._suspended = False
        self._buffer.clear()
        sessions, self._sessions = self._sessions, {}
        self._dirty = []
        for session in sessions.values():
            session.lost()

    def _touch(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()


def _nobody() -> None:
    """Wake nobody."""


def _fail(description: str, condition: str) -> NoReturn:
    raise RemoteProtocolError(description, condition)
