"""A client that says what it is told and reads what comes back, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from muster.wire.amqp import bodies, messages
from muster.wire.amqp.connection import ServerConnection
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY_FRAME, FrameBuffer, frame
from muster.wire.amqp.limits import ConnectionLimits
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.messages import Data, Message
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Flow,
    Open,
    Source,
    Target,
    Transfer,
)

if TYPE_CHECKING:
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.performatives import Performative

T = TypeVar("T")

PAYLOAD = messages.encode(Message(Data([b"payload"])))


def encoded(performative: Performative, payload: bytes = b"", channel: int = 0) -> bytes:
    return frame(channel, bodies.encode(performative), payload)


class Client:
    """The other end of a `ServerConnection`.

    Args:
        opened: whether to have both sides opened, and a session begun on channel 0.
        max_frame_size: what the client takes.
    """

    def __init__(
        self,
        *,
        opened: bool = True,
        max_frame_size: int = 65_536,
        idle_time_out: int | None = None,
        **limits: Any,
    ) -> None:
        self.woken = 0
        self.connection = ServerConnection(
            "server", limits=ConnectionLimits(**limits), wake=self._wake
        )
        self._buffer = FrameBuffer()
        self._transfers: dict[int, int] = {}
        if opened:
            self.receive(AMQP_HEADER)
            self.send(Open("c", max_frame_size=max_frame_size, idle_time_out=idle_time_out))
            self.connection.open()
            self.send(Begin(0, 1_000, 1_000))
            self.header()
            assert [type(said) for said in self.said()] == [Open, Begin]

    def _wake(self) -> None:
        self.woken += 1

    def receive(self, data: bytes) -> list[Event]:
        return self.connection.receive(data)

    def send(self, *said: Performative, channel: int = 0) -> list[Event]:
        return self.receive(b"".join(encoded(one, channel=channel) for one in said))

    def header(self) -> bytes | None:
        """Return the protocol header that the server sent."""
        self._buffer.feed(self.connection.outgoing())
        return self._buffer.header()

    def frames(self) -> list[tuple[int, Any, bytes]]:
        """Return what the server said: channel, performative, payload."""
        self._buffer.feed(self.connection.outgoing())
        found = []
        while (one := self._buffer.next(1 << 20)) is not None:
            _, channel, body = one
            if body:
                performative, end = bodies.read(body)
                found.append((channel, performative, body[end:]))
            else:
                found.append((channel, EMPTY_FRAME, b""))
        assert not self._buffer.buffered
        return found

    def said(self) -> list[Any]:
        """Return the performatives that the server sent."""
        return [performative for _, performative, _ in self.frames()]

    def attach_sender(
        self, handle: int = 0, address: str = "a", channel: int = 0, **fields: Any
    ) -> ReceivingLink:
        """Attach a link to send over; it is not accepted yet."""
        attach = Attach(
            f"sender-{handle}",
            handle,
            role=False,
            target=Target(address),
            initial_delivery_count=0,
            **fields,
        )
        return self.attach(attach, ReceivingLink, channel)

    def attach_receiver(
        self, handle: int = 1, address: str = "a", channel: int = 0, **fields: Any
    ) -> SendingLink:
        """Attach a link to receive over; it is not accepted yet."""
        attach = Attach(f"receiver-{handle}", handle, role=True, source=Source(address), **fields)
        return self.attach(attach, SendingLink, channel)

    def attach(self, attach: Attach, kind: type[T], channel: int = 0) -> T:
        (event,) = self.send(attach, channel=channel)
        link: Link = event.link  # type: ignore[union-attr]
        assert isinstance(link, kind)
        return link

    def sender(self, credit: int = 10, handle: int = 0, **fields: Any) -> ReceivingLink:
        """Attach a link to send over, accepted; what the server said about it is read."""
        link = self.attach_sender(handle, **fields)
        link.accept(credit)
        self.said()
        return link

    def receiver(self, credit: int = 10, handle: int = 1, **fields: Any) -> SendingLink:
        """Attach a link to receive over, accepted and with credit; likewise."""
        link = self.attach_receiver(handle, **fields)
        link.accept()
        if credit:
            self.grant(credit, handle)
        self.said()
        return link

    def grant(self, credit: int, handle: int = 1, **fields: Any) -> list[Event]:
        return self.send(
            Flow(1_000, 0, 1_000, 0, handle, link_credit=credit, **{"delivery_count": 0, **fields})
        )

    def transfer(
        self, delivery_id: int, payload: bytes = PAYLOAD, handle: int = 0, **fields: Any
    ) -> list[Event]:
        """Send one frame of a message."""
        transfer = Transfer(handle, delivery_id, b"t%d" % delivery_id, 0, **fields)
        return self.receive(encoded(transfer, payload))
