"""A blocking AMQP 1.0 client that does exactly what it is told, and what it says is raw.

It grants no credit, settles nothing and answers nothing of its own.
"""

from __future__ import annotations

import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from muster.wire.amqp import bodies, messages
from muster.wire.amqp.frames import AMQP_HEADER, SASL_FRAME, SASL_HEADER, FrameBuffer, frame
from muster.wire.amqp.messages import AmqpValue, Message, Properties
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Detach,
    Disposition,
    Flow,
    Open,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
)
from support.raw_client import PATIENCE_S, RawClient
from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.wire.amqp.performatives import Performative
    from support.certificates import ClientCertificate
    from support.instance import Instance

T = TypeVar("T")


class Said(NamedTuple):
    """One frame of the service."""

    channel: int
    performative: Any
    payload: bytes


class Received(NamedTuple):
    """One message of the service."""

    transfer: Transfer
    message: Message
    payload: bytes


class AmqpClient(RawClient):
    """One connection: TLS on the AMQP port, or a WebSocket on the HTTPS port."""

    def __init__(
        self,
        instance: Instance,
        host: str,
        *,
        websocket: str | None = None,
        certificate: ClientCertificate | None = None,
    ) -> None:
        """Connect to `host`; `websocket` is the path to call, such as `/$iothub/websocket`."""
        self._buffer = FrameBuffer()
        self._inbox: deque[Said] = deque()
        self._next_handle = 0
        self._next_delivery: dict[int, int] = {}
        self.transfers = 0
        """Transfer frames that have come."""
        self.host = host
        super().__init__(
            instance,
            host,
            instance.place.amqp_port,
            websocket=None if websocket is None else (websocket, "AMQPWSB10"),
            certificate=certificate,
        )

    # Frames.

    def send(self, *said: Performative, payload: bytes = b"", channel: int = 0) -> None:
        """Say these, the last with a payload, all in one piece."""
        frames = [frame(channel, bodies.encode(one)) for one in said[:-1]]
        frames.append(frame(channel, bodies.encode(said[-1]), payload))
        self.send_bytes(b"".join(frames))

    def receive(self, timeout_s: float = PATIENCE_S) -> Said | None:
        """Return the next frame, None once the service has closed the connection."""
        return self._inbox.popleft() if self._inbox else self._next(timeout_s)

    def _next(self, timeout_s: float = PATIENCE_S) -> Said | None:
        end = CLOCK.monotonic() + timeout_s
        while (one := self._buffer.next(1 << 24)) is None:
            data = self._read(end - CLOCK.monotonic())
            if not data:
                return None
            self._buffer.feed(data)
        _, channel, body = one
        if not body:
            return self._next(end - CLOCK.monotonic())
        performative, at = bodies.read(body)
        self.transfers += isinstance(performative, Transfer)
        return Said(channel, performative, body[at:])

    def header(self) -> bytes:
        """Return the protocol header that comes next."""
        while (header := self._buffer.header()) is None:
            data = self._read(PATIENCE_S)
            assert data, "the service closed the connection instead of sending a header"
            self._buffer.feed(data)
        return header

    def find(
        self, kind: type[T], which: Callable[[T], bool] = lambda _: True, *, timeout_s: float = 20
    ) -> T:
        """Return the next performative of this kind that `which` likes; others stay in order."""
        return self._find(kind, which, timeout_s).performative  # type: ignore[no-any-return]

    def _find(self, kind: Any, which: Callable[[Any], bool], timeout_s: float) -> Said:
        for said in self._inbox:
            if isinstance(said.performative, kind) and which(said.performative):
                self._inbox.remove(said)
                return said
        end = CLOCK.monotonic() + timeout_s
        while (said := self._next(end - CLOCK.monotonic())) is not None:  # type: ignore[assignment]
            if isinstance(said.performative, kind) and which(said.performative):
                return said
            self._inbox.append(said)
        raise AssertionError(
            f"the service closed the connection instead of {kind.__name__}: {list(self._inbox)}"
        )

    def expect_closed(self) -> list[Any]:
        """Read until the service closes the connection, and return what it said."""
        said = []
        while (one := self.receive()) is not None:
            said.append(one.performative)
        return said

    # What clients do with frames.

    def sasl(self, mechanism: str, response: bytes | None = None) -> int:
        """Choose a mechanism and return the code of the outcome."""
        self.send_bytes(SASL_HEADER)
        assert self.header() == SASL_HEADER
        offered = self.find(SaslMechanisms).sasl_server_mechanisms
        assert mechanism in offered, offered
        init = SaslInit(mechanism, response, self.host)
        self.send_bytes(frame(0, bodies.encode(init), frame_type=SASL_FRAME))
        return self.find(SaslOutcome).code

    def open(self, **fields: Any) -> Open:
        """Open, begin a session on channel 0, and return what the service says of itself."""
        self.send_bytes(AMQP_HEADER)
        assert self.header() == AMQP_HEADER
        self.send(Open(f"tests-{uuid.uuid4()}", **{"hostname": self.host, **fields}))
        opened = self.find(Open)
        self.begin()
        return opened

    def begin(self, channel: int = 0) -> Begin:
        self.send(Begin(0, 2_048, 2_048, handle_max=0xFFFF_FFFF), channel=channel)
        return self.find(Begin, lambda begin: begin.remote_channel == channel)

    def attach(self, *, sends: bool, address: str, channel: int = 0, **fields: Any) -> Attach:
        """Attach a link and return the answer; `handle` of it is the link's."""
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        attach = Attach(
            f"link-{handle}",
            handle,
            role=not sends,
            **{
                "source": Source() if sends else Source(address),
                "target": Target(address) if sends else Target(),
                "initial_delivery_count": 0 if sends else None,
                **fields,
            },
        )
        self.send(attach, channel=channel)
        return self.find(Attach, lambda answer: answer.name == attach.name)

    def sender(self, address: str, channel: int = 0, **fields: Any) -> int:
        """Attach a link to send over, wait for its credit and return its handle."""
        handle = self.attach(sends=True, address=address, channel=channel, **fields).handle
        self.find(Flow, lambda flow: flow.handle == handle)
        return handle

    def receiver(self, address: str, credit: int = 10, channel: int = 0, **fields: Any) -> int:
        """Attach a link to receive over, grant credit and return its handle."""
        handle = self.attach(sends=False, address=address, channel=channel, **fields).handle
        if credit:
            self.grant(handle, credit, channel=channel)
        return handle

    def grant(self, handle: int, credit: int, count: int = 0, channel: int = 0) -> None:
        """Grant credit on top of `count` deliveries that have come."""
        flow = Flow(
            2_048, 0, 2_048, self.transfers, handle, delivery_count=count, link_credit=credit
        )
        self.send(flow, channel=channel)

    def refusal(self, *, sends: bool, address: str, **fields: Any) -> Detach:
        """Attach a link, which must be refused in the form all clients read, and return how."""
        answer = self.attach(sends=sends, address=address, **fields)
        assert answer.source is not None
        assert answer.target is not None
        detach = self.find(Detach, lambda detach: detach.handle == answer.handle)
        assert detach.closed
        assert detach.error is not None
        return detach

    def transfer(
        self,
        handle: int,
        payload: bytes,
        *,
        channel: int = 0,
        settled: bool = False,
        message_format: int = 0,
        more: bool = False,
    ) -> int:
        """Send a message, or with `more` its first part, and return its delivery id."""
        number = self._next_delivery.get(channel, 0)
        self._next_delivery[channel] = number + 1
        transfer = Transfer(
            handle, number, b"%d" % number, message_format, settled=settled, more=more
        )
        self.send(transfer, payload=payload, channel=channel)
        return number

    def outcome(self, delivery_id: int) -> Disposition:
        """Return what the service says became of a message that was sent."""
        return self.find(
            Disposition,
            lambda said: said.role and said.first <= delivery_id <= (said.last or said.first),
        )

    def message(self, handle: int, *, timeout_s: float = PATIENCE_S) -> Received:
        """Return the next message on a link, whole; the link must not be detached before."""
        said = self._part(handle, timeout_s)
        first, payload = said.performative, said.payload
        while said.performative.more:
            said = self._part(handle, timeout_s)
            payload += said.payload
        return Received(first, messages.decode(payload), payload)

    def _part(self, handle: int, timeout_s: float) -> Said:
        said = self._find(Transfer | Detach, lambda one: one.handle == handle, timeout_s)
        assert isinstance(said.performative, Transfer), said.performative
        return said

    def settle(self, transfer: Transfer, state: Any, *, settled: bool = True) -> None:
        number = transfer.delivery_id
        assert number is not None
        self.send(Disposition(True, number, number, settled=settled, state=state))

    # Tokens.

    def cbs(self, channel: int = 0) -> tuple[int, int]:
        """Attach both links of `$cbs` and return their handles: to send, to receive."""
        return (
            self.sender("$cbs", channel),
            self.receiver("$cbs", 100, channel),
        )

    def put_token(
        self,
        links: tuple[int, int],
        token: str,
        *,
        message_id: Any = "a",
        channel: int = 0,
        properties: dict[str, Any] | None = None,
    ) -> Message:
        """Send a token and return the answer."""
        self.transfer(links[0], put_token(token, message_id, properties), channel=channel)
        return self.message(links[1]).message

    def log_in(self, *tokens: str) -> tuple[int, int]:
        """Open without SASL, as Node does, and put tokens, which must be good."""
        self.open()
        links = self.cbs()
        for token in tokens:
            answer = self.put_token(links, token)
            assert answer.application_properties["status-code"] == 200, answer
        return links


def put_token(token: str, message_id: Any, properties: dict[str, Any] | None = None) -> bytes:
    """Write a put-token request."""
    return messages.encode(
        Message(
            AmqpValue(token),
            Properties(message_id=message_id),
            {
                "operation": "put-token",
                "type": "servicebus.windows.net:sastoken",
                "name": "any",
                **(properties or {}),
            },
        )
    )
