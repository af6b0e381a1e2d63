"""MQTT connections: bytes on one side, sessions of whoever accepts them on the other.

Knows the life of a connection (CONNECT in time, keep-alive, who may write how much) and nothing of
devices or topics. What an acceptor is told and asked is in `MqttAcceptor` and `MqttSession`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

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
from muster.net.tasks import spawn
from muster.net.timers import NO_SLOT, running_wheel
from muster.wire.mqtt import codec
from muster.wire.mqtt.connection import ServerConnection
from muster.wire.mqtt.errors import RemoteProtocolError
from muster.wire.mqtt.packets import Connack, Connect, Disconnect, Pingreq, Pingresp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from muster.wire.mqtt.packets import Packet

_log = structlog.get_logger(__name__)

SERVER_UNAVAILABLE: Final = 3
"""CONNACK return code that makes every SDK try again; 4 and 5 make some give up for good
(hub-device.md 13.20)."""

_PINGRESP: Final = codec.encode(Pingresp())
_OURS: Final = frozenset((Pingreq, Disconnect))

_CONNECTING: Final = 0
_ACCEPTING: Final = 1
_OPEN: Final = 2
_CLOSED: Final = 3


class MqttLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may take. Times in seconds, sizes in bytes.

    Attributes:
        connect_s: time until CONNECT is there (hub-device.md 2.2).
        keep_alive_cap_s: longest silence of any client, also of one that promised nothing
            (hub-device.md 2.2, 13.22).
        write_buffer: bytes a client may leave unread before it is closed as a slow reader.
    """

    connect_s: float = 30.0
    keep_alive_cap_s: float = 1_767.0
    write_buffer: int = 8 * 1024 * 1024


class MqttPeer(Peer, Protocol):
    """What a session can do with its connection. Never blocks, never raises."""

    @property
    def buffered(self) -> int:
        """Bytes written but not yet taken by the network."""

    def write(self, data: bytes) -> None:
        """Send encoded packets; what is written in one turn leaves together."""

    def close(self, reason: str) -> None:
        """Send what is pending, then close. `reason` comes back in `MqttSession.closed`."""


class MqttSession(Protocol):
    """One accepted connection, as its owner sees it. Calls must not block."""

    def started(self) -> None:
        """CONNACK has been written: from now on the peer may be written to."""

    def received(self, packets: list[Packet]) -> None:
        """Packets came in, in order; PINGREQ and DISCONNECT are not among them."""

    def closed(self, graceful: bool, reason: str) -> None:  # noqa: FBT001 - always passed by name
        """The connection is over. Called exactly once, also when `started` never was.

        Args:
            graceful: the client sent DISCONNECT, so its will must not be published.
            reason: why, for logs and decision records.
        """


class Accepted:
    """The answer to a CONNECT that is welcome."""

    __slots__ = ("session", "session_present")

    def __init__(self, session: MqttSession, *, session_present: bool) -> None:
        self.session = session
        self.session_present = session_present


class Refused:
    """The answer to a CONNECT that is not.

    Args:
        return_code: CONNACK return code, 1 to 5 (hub-device.md 2.1).
        delay_s: seconds to wait before saying so, to slow down those who only come again.
    """

    __slots__ = ("delay_s", "return_code")

    def __init__(self, return_code: int, delay_s: float = 0.0) -> None:
        self.return_code = return_code
        self.delay_s = delay_s


Answer: TypeAlias = "Accepted | Refused"


class MqttAcceptor(Protocol):
    """Decides about every CONNECT."""

    def accept(self, connect: Connect, peer: MqttPeer) -> Answer | Coroutine[Any, Any, Answer]:
        """Take or refuse a client, at once or in a coroutine.

        That may take its time; nothing else of the client is seen until it is done. An exception
        is logged and answered with "server unavailable".
        """


MqttProtocolFactory: TypeAlias = "Callable[[], MqttConnection]"


def mqtt_protocol_factory(
    acceptor: MqttAcceptor, limits: MqttLimits | None = None, transport: str = "mqtt"
) -> MqttProtocolFactory:
    """Return what makes the protocol of one MQTT connection, for `Listener.listen`.

    Args:
        acceptor: asked about every CONNECT.
        limits: what clients may take.
        transport: what `MqttPeer.transport` says.
    """
    service = _Service(acceptor, limits or MqttLimits(), transport)
    return lambda: MqttConnection(service)


class _Service:
    """What all MQTT connections of a factory share."""

    __slots__ = ("acceptor", "limits", "loop", "transport", "wheel")

    def __init__(self, acceptor: MqttAcceptor, limits: MqttLimits, transport: str) -> None:
        self.acceptor = acceptor
        self.limits = limits
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.wheel = running_wheel()


class MqttConnection(asyncio.Protocol):
    """One MQTT connection; to its session it is the `MqttPeer`."""

    __slots__ = (
        "_graceful",
        "_held",
        "_keep_alive_s",
        "_phase",
        "_read_paused",
        "_reason",
        "_service",
        "_session",
        "_sink",
        "_wire",
        "_write_paused",
        "last_received",
        "timer_slot",
    )

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._wire = ServerConnection()
        self._sink: asyncio.Transport = cast("asyncio.Transport", None)
        # None before it is accepted and after it was told of the end.
        self._session: MqttSession = cast("MqttSession", None)
        self._phase = _CONNECTING
        self._held: list[Packet] = []
        self._keep_alive_s = 0.0
        self._read_paused = False
        self._write_paused = False
        self._graceful = False
        self._reason = ""
        self.last_received = 0.0
        self.timer_slot = NO_SLOT

    # MqttPeer

    @property
    def transport(self) -> str:
        """`mqtt` or `mqtt-ws`."""
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
        return self._phase == _CLOSED

    @property
    def buffered(self) -> int:
        """Bytes written but not yet taken by the network."""
        return self._sink.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send encoded packets; dropped unless the connection is accepted and open."""
        if self._phase != _OPEN:
            return
        self._sink.write(data)
        if self._write_paused and self.buffered > self._service.limits.write_buffer:
            _log.info("mqtt connection closed", reason=SLOW_READER, remote=self.remote)
            self._end(SLOW_READER)
            self._sink.abort()

    def close(self, reason: str) -> None:
        """Send what is pending, then close."""
        if self._phase != _CLOSED:
            self._end(reason)
            self._sink.close()

    def reset(self, reason: str) -> None:
        """Break the connection off."""
        if self._phase != _CLOSED:
            self._end(reason)
            reset(self._sink)

    def pause_reading(self) -> None:
        """Stop receiving."""
        self._read_paused = True
        self._sink.pause_reading()

    def resume_reading(self) -> None:
        """Receive again, and count the keep-alive from now."""
        if self._read_paused:
            self._read_paused = False
            self.last_received = self._service.loop.time()
            self._sink.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for CONNECT."""
        service = self._service
        self._sink = cast("asyncio.Transport", transport)
        self.last_received = service.loop.time()
        service.wheel.start(self, self.last_received + service.limits.connect_s)

    def data_received(self, data: bytes) -> None:
        """Decode what came in and hand it on."""
        if self._phase == _CLOSED:
            return
        self.last_received = self._service.loop.time()
        try:
            packets = self._wire.receive(data)
        except RemoteProtocolError as error:
            self._violated(error)
            return
        if self._phase == _OPEN:
            self._dispatch(packets)
        elif packets:
            self._take_early(packets)

    def eof_received(self) -> bool | None:
        """The client is gone, and did not say DISCONNECT."""
        self.close(CLOSED_BY_CLIENT)
        return None

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session, whoever closed."""
        if self._phase != _CLOSED:
            self._end(lost_because(exc))
        self._held = []
        session, self._session = self._session, cast("MqttSession", None)
        if session is not None:
            self._tell_closed(session)

    def shutdown(self) -> None:
        """Close because the service stops; clients come again by themselves."""
        self.close(SERVICE_STOPS)

    # Within.

    def timer_expired(self, now: float) -> float:
        """Enforce the deadline of CONNECT and the keep-alive (`Timed`)."""
        if self._phase == _OPEN:
            if self._read_paused:
                return now + self._keep_alive_s
            due = self.last_received + self._keep_alive_s
            if now < due:
                return due
            self.close(NOT_HEARD)
        elif self._phase == _CONNECTING:
            _log.info("mqtt connection closed", reason="no CONNECT in time", remote=self.remote)
            self.close("no CONNECT in time")
        return 0.0

    def _take_early(self, packets: list[Packet]) -> None:
        """Take CONNECT, and hold what comes before it is answered."""
        if self._phase == _ACCEPTING:
            # One chunk is held; nothing follows it until there is an answer.
            self._held.extend(packets)
            self.pause_reading()
        else:
            self._phase = _ACCEPTING
            self._service.wheel.stop(self)
            self._held = packets[1:]
            connect = cast("Connect", packets[0])
            try:
                answer = self._service.acceptor.accept(connect, self)
            except Exception:  # noqa: BLE001 - answered with "server unavailable"
                answer = self._not_accepted()
            if isinstance(answer, Accepted):
                self._welcome(connect, answer)
            else:
                spawn(self._accept(connect, answer), "mqtt accept")

    async def _accept(self, connect: Connect, asked: Refused | Coroutine[Any, Any, Answer]) -> None:
        try:
            answer = asked if isinstance(asked, Refused) else await asked
        except Exception:  # noqa: BLE001 - answered with "server unavailable"
            answer = self._not_accepted()
        if isinstance(answer, Accepted):
            self._welcome(connect, answer)
            return
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        self._refuse(answer.return_code, f"refused with return code {answer.return_code}")

    def _not_accepted(self) -> Refused:
        _log.exception("mqtt accept failed", remote=self.remote)
        return Refused(SERVER_UNAVAILABLE)

    def _welcome(self, connect: Connect, answer: Accepted) -> None:
        session = answer.session
        if self._phase == _CLOSED:
            # The client did not wait.
            self._tell_closed(session)
            return
        cap = self._service.limits.keep_alive_cap_s
        self._keep_alive_s = min(connect.keep_alive_s * 1.5, cap) or cap
        self._service.wheel.start(self, self._service.loop.time() + self._keep_alive_s)
        self._session = session
        self._phase = _OPEN
        self._sink.write(codec.encode(Connack(0, answer.session_present)))
        held, self._held = self._held, []
        try:
            session.started()
        except Exception:  # noqa: BLE001 - costs this connection only
            self._failed("started")
            return
        if held:
            self._dispatch(held)
        self.resume_reading()

    def _refuse(self, return_code: int, reason: str) -> None:
        if self._phase != _CLOSED:
            self._sink.write(codec.encode(Connack(return_code, session_present=False)))
            self.close(reason)

    def _dispatch(self, packets: list[Packet]) -> None:
        for packet in packets:
            if type(packet) in _OURS:
                self._dispatch_mixed(packets)
                return
        if packets:
            self._hand_on(packets)

    def _dispatch_mixed(self, packets: list[Packet]) -> None:
        rest: list[Packet] = []
        pings = 0
        for packet in packets:
            if isinstance(packet, Disconnect):
                self._graceful = True
                break
            if isinstance(packet, Pingreq):
                pings += 1
            else:
                rest.append(packet)
        if rest:
            self._hand_on(rest)
        if pings:
            self.write(_PINGRESP * pings)
        if self._graceful:
            self.close(CLOSED_BY_CLIENT)

    def _hand_on(self, packets: list[Packet]) -> None:
        try:
            self._session.received(packets)
        except Exception:  # noqa: BLE001 - costs this connection only
            self._failed("received")

    def _violated(self, error: RemoteProtocolError) -> None:
        """Close a connection whose client broke the protocol, after what came before that."""
        if error.packets and self._phase == _OPEN:
            self._dispatch(error.packets)
        # Serving what came before may have closed the connection already.
        if self._phase == _CLOSED:
            return
        _log.info("mqtt protocol violated", reason=error.reason, remote=self.remote)
        if self._phase == _CONNECTING and error.reply_hint is not None:
            self._refuse(error.reply_hint, error.reason)
        else:
            self.close(error.reason)

    def _failed(self, where: str) -> None:
        _log.exception("mqtt session failed", where=where, remote=self.remote)
        self.close("internal error")

    def _tell_closed(self, session: MqttSession) -> None:
        try:
            session.closed(graceful=self._graceful, reason=self._reason)
        except Exception:  # noqa: BLE001 - there is nothing left to close
            _log.exception("mqtt session failed", where="closed", remote=self.remote)

    def _end(self, reason: str) -> None:
        self._phase = _CLOSED
        self._reason = reason
        self._service.wheel.stop(self)
