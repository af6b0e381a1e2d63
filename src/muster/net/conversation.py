"""One MQTT connection of a device, from the device's end, and how it may end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import msgspec

from muster.net.dial import HandshakeError, reason
from muster.wire.mqtt import codec
from muster.wire.mqtt.client import ClientConnection
from muster.wire.mqtt.errors import RemoteProtocolError
from muster.wire.mqtt.packets import Connack, Disconnect

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Connect, Packet

N = TypeVar("N")

NO_ANSWER: Final = "no answer in time"
LOST: Final = "connection lost"

_DISCONNECT: Final = codec.encode(Disconnect())
_SERVER_UNAVAILABLE: Final = 3
_CONNACK_TEXTS: Final = {
    1: "unacceptable protocol version",
    2: "identifier rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why something did not work.

    Attributes:
        kind: one of few texts; errors are counted by it.
        final: trying again would not help.
        unreachable: there was no service to talk to, or none to be trusted.
        untrusted: its certificate was refused.
        detail: the service's own words, for people.
        wait_s: what the service asked to wait, 0 for nothing.
    """

    kind: str
    final: bool = False
    unreachable: bool = False
    untrusted: bool = False
    detail: str = ""
    wait_s: float = 0.0


class Owner(Protocol):
    """Who has the conversation, and is told what comes of it."""

    def ended(self, conversation: Conversation[Any], failure: Failure | None) -> None:
        """Note that it is over; `None` when that was the plan. Called once."""


class Conversation(asyncio.Protocol, Generic[N]):
    """CONNECT, and what a subclass makes of the answers.

    `N` is what a subclass notes of packets that are to be answered.

    Args:
        owner: told of the end.
    """

    __slots__ = ("_client", "_over", "_owner", "_transport")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._client: ClientConnection[N] = ClientConnection()
        self._transport: asyncio.Transport | None = None
        self._over = False

    # What subclasses say.

    def connect(self) -> Connect:
        """Return the CONNECT."""
        raise NotImplementedError

    def accepted(self) -> None:
        """Go on after CONNACK 0."""
        raise NotImplementedError

    def take(self, packet: Packet) -> None:
        """Take any other packet."""
        raise NotImplementedError

    # What they use.

    def write(self, data: bytes) -> None:
        """Send; nothing where there is no connection yet."""
        if self._transport is not None:
            self._transport.write(data)

    def leave(self) -> None:
        """End in good order: DISCONNECT."""
        if not self._over:
            self.write(_DISCONNECT)
        self.end(None)

    def end(self, failure: Failure | None) -> None:
        """Close, and tell the owner once."""
        if self._over:
            return
        self._over = True
        if self._transport is not None:
            self._transport.close()
        self._owner.ended(self, failure)

    # The protocol of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who this is."""
        self._transport = cast("asyncio.Transport", transport)
        if self._over:
            self._transport.abort()  # left or given up during the handshake
            return
        self.write(codec.encode(self.connect()))

    def data_received(self, data: bytes) -> None:
        """Take what the service says."""
        try:
            for packet in self._client.receive(data):
                if self._over:
                    return
                if isinstance(packet, Connack):
                    self._connack(packet.return_code)
                else:
                    self.take(packet)
        except RemoteProtocolError as error:
            self.end(Failure(kind=f"protocol: {error.reason}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the connection."""
        if isinstance(exc, HandshakeError):
            self.end(
                Failure(
                    kind=f"{exc.layer}: {exc.reason}",
                    final=exc.untrusted,
                    unreachable=True,
                    untrusted=exc.untrusted,
                    detail=exc.detail and reason(exc),
                )
            )
        else:
            self.end(Failure(kind=LOST))

    def _connack(self, return_code: int) -> None:
        if return_code:
            text = _CONNACK_TEXTS[return_code]
            self.end(
                Failure(
                    kind=f"CONNACK {return_code}",
                    detail=f"the service answered CONNECT with {return_code}, {text}",
                    final=return_code != _SERVER_UNAVAILABLE,
                )
            )
        else:
            self.accepted()
