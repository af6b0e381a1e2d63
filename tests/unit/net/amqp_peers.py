"""An AMQP acceptor whose owners remember what they are told, and a raw AMQP client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from muster.wire.amqp import bodies
from muster.wire.amqp.deliveries import Delivery, Sent
from muster.wire.amqp.events import LinkAttached
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY_FRAME, FrameBuffer, frame
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Flow,
    Open,
    SaslInit,
    Source,
    Target,
    Transfer,
)
from unit.net.loopback import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.net.amqp import AmqpPeer
    from muster.wire.amqp.connection import ServerConnection
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.performatives import Performative, SaslFrame
    from unit.net.loopback import Reader, Writer

SENDS = 0
RECEIVES = 1
"""Handles of the links that `Client.log_in` attaches."""


class Owner:
    """Accepts everything, and does what a test tells it to."""

    def __init__(
        self, acceptor: AmqpAcceptor, connection: ServerConnection, peer: AmqpPeer
    ) -> None:
        self.acceptor = acceptor
        self.connection = connection
        self.peer = peer
        self.events: list[Event] = []
        self.link: SendingLink | None = None
        self.sent: list[Sent] = []
        self.closings: list[str] = []
        self.writables = 0

    def received(self, events: list[Event]) -> None:
        for event in events:
            self.events.append(event)
            if self.acceptor.answers:
                self.answer(event)

    def answer(self, event: Event) -> None:
        match event:
            case SaslInit():
                self.connection.sasl_accept()
            case Open():
                self.connection.open()
            case LinkAttached(link=ReceivingLink() as link):
                link.accept(100)
            case LinkAttached(link=SendingLink() as link):
                link.accept()
                self.link = link
            case Delivery():
                action = self.acceptor.on_payload.get(event.payload)
                if action is not None:
                    action(self)
                event.accept()

    def writable(self) -> None:
        self.writables += 1
        if self.acceptor.on_writable is not None:
            self.acceptor.on_writable(self)

    def closed(self, reason: str) -> None:
        self.closings.append(reason)


class AmqpAcceptor:
    """Makes an owner for every connection.

    Owners answer by themselves while `answers`, and do what stands under the payload of a message.
    """

    def __init__(self) -> None:
        self.owners: list[Owner] = []
        self.answers = True
        self.on_payload: dict[bytes, Callable[[Owner], Any]] = {}
        self.on_writable: Callable[[Owner], Any] | None = None

    def accept(self, connection: ServerConnection, peer: AmqpPeer) -> Owner:
        owner = Owner(self, connection, peer)
        self.owners.append(owner)
        return owner


def encoded(performative: Performative, payload: bytes = b"") -> bytes:
    return frame(0, bodies.encode(performative), payload)


def encoded_sasl(said: SaslFrame) -> bytes:
    return frame(0, bodies.encode(said), frame_type=1)


def transfer(delivery_id: int = 0, payload: bytes = b"payload", **fields: Any) -> bytes:
    return encoded(Transfer(SENDS, delivery_id, b"t", 0, **fields), payload)


class Client:
    """Sends what it is told and decodes what comes back."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader = reader
        self.writer = writer
        self._buffer = FrameBuffer()
        self._header = False

    def send(self, *said: Performative | bytes) -> None:
        data = (one if isinstance(one, bytes) else encoded(one) for one in said)
        self.writer.write(b"".join(data))

    async def header(self) -> bytes:
        while (header := self._buffer.header()) is None:
            await self._read()
        return header

    async def receive(self) -> Any:
        """Return the next performative, or `EMPTY_FRAME`."""
        return (await self.receive_frame())[0]

    async def receive_frame(self) -> tuple[Any, bytes]:
        while (found := self._buffer.next(1 << 20)) is None:
            await self._read()
        body = found[2]
        if not body:
            return EMPTY_FRAME, b""
        performative, end = bodies.read(body)
        return performative, body[end:]

    async def log_in(self, credit: int = 100, **fields: Any) -> None:
        """Open, begin, attach a link each way and grant credit."""
        self.send(AMQP_HEADER, Open("c", **fields), Begin(0, 10_000, 10_000))
        self.send(
            Attach("s", SENDS, role=False, target=Target("a"), initial_delivery_count=0),
            Attach("r", RECEIVES, role=True, source=Source("a")),
            Flow(10_000, 0, 10_000, 0, RECEIVES, 0, credit),
        )
        assert await self.header() == AMQP_HEADER
        said = [type(await self.receive()) for _ in range(5)]
        assert said == [Open, Begin, Attach, Attach, Flow]

    async def ended(self) -> list[Any]:
        """Return what the server still says until it closes."""
        said = []
        async with asyncio.timeout(PATIENCE_S):
            while data := await self.reader.read(65_536):
                self._buffer.feed(data)
                while (found := self._buffer.next(1 << 20)) is not None:
                    said.append(bodies.read(found[2])[0] if found[2] else EMPTY_FRAME)
        return said

    async def _read(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            data = await self.reader.read(65_536)
        assert data, "the server closed the connection"
        self._buffer.feed(data)
