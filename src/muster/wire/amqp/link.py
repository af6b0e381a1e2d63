"""Links: one way for messages, from or to the client (2.6).

`ReceivingLink` and `SendingLink` are named as we see them. Owners use what stands first in each
class; what stands under "For the session" belongs to `Session`.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

from muster.wire.amqp.deliveries import Delivery, Sent
from muster.wire.amqp.errors import (
    INVALID_FIELD,
    MESSAGE_SIZE_EXCEEDED,
    TRANSFER_LIMIT_EXCEEDED,
    LocalProtocolError,
    RemoteProtocolError,
)
from muster.wire.amqp.events import CreditChanged, LinkDetached
from muster.wire.amqp.performatives import (
    CLIENT_SENDS,
    Attach,
    DeliveryState,
    Detach,
    Error,
    Flow,
    Source,
    Target,
)

if TYPE_CHECKING:
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.session import Session
    from muster.wire.amqp.types import Value

    Map: TypeAlias = dict[Value, Value]

PENDING: Final = 0
ATTACHED: Final = 1
DETACH_SENT: Final = 2
DETACHED: Final = 3

_SENT_SIZE: Final = 256
"""Bytes that a message takes besides its payload, about."""

SERIAL: Final = 0xFFFF_FFFF
"""Counters and ids are of 32 bits and wrap around (2.8.10)."""


class _Link:
    """What both kinds of links have.

    Attributes:
        session: the session it belongs to.
        handle: its number in the session.
        name: the client's name for it.
        attach: all that the client said.
        context: for the owner, to find what belongs to the link.
    """

    __slots__ = ("attach", "context", "handle", "name", "session", "size", "state")

    def __init__(self, session: Session, attach: Attach, size: int) -> None:
        self.session = session
        self.attach = attach
        self.handle = attach.handle
        self.name = attach.name
        self.context: Any = None
        self.state = PENDING
        self.size = size  # bytes of the attach frame, for the connection's account

    @property
    def attached(self) -> bool:
        """Whether it is accepted and not detached by either side."""
        return self.state == ATTACHED

    @property
    def source(self) -> Source:
        """The source the client asked for; an empty one where it named none."""
        source = self.attach.source
        return source if isinstance(source, Source) else Source()

    @property
    def target(self) -> Target:
        """The target the client asked for; an empty one where it named none."""
        target = self.attach.target
        return target if isinstance(target, Target) else Target()

    @property
    def properties(self) -> Map:
        """The link's properties; empty where there are none."""
        return self.attach.properties or {}

    def detach(self, error: Error | None = None) -> None:
        """Detach it for good.

        Before `accept` this refuses it, in the form that all clients read: attach, then detach
        with the error (hub-service.md 0.3).

        What the client sends over it from now on is ignored; no `LinkDetached` follows.
        """
        if self.state == PENDING:
            self._answer(None, None, None, None)
        elif self.state != ATTACHED:
            return
        session = self.session
        session.flush()
        self.state = DETACH_SENT
        self.release()
        session.write(Detach(self.handle, closed=True, error=error))

    def _answer(
        self,
        source: Source | None,
        target: Target | None,
        properties: Map | None,
        max_message_size: int | None,
    ) -> None:
        attach = self.attach
        echoed_source = attach.source if source is None else source
        echoed_target = attach.target if target is None else target
        role = not attach.role
        self.session.write(
            Attach(
                self.name,
                self.handle,
                role,
                attach.snd_settle_mode,
                attach.rcv_settle_mode,
                # Without them the client of azure-eventhub gives up (hub-service.md 0.3).
                Source() if echoed_source is None else echoed_source,
                Target() if echoed_target is None else echoed_target,
                initial_delivery_count=0 if role is CLIENT_SENDS else None,
                max_message_size=max_message_size,
                properties=properties,
            )
        )

    # For the session.

    def release(self) -> None:
        """Give back what it holds, and say nothing."""

    def ended(self) -> None:
        """Note that its session is over."""
        self.state = DETACHED
        self.release()

    def detached(self) -> None:
        """Note that the client has detached it, and answer its attach if that has not been."""
        if self.state == PENDING:
            self._answer(None, None, None, None)
        self.ended()

    def violated(self, error: Error, events: list[Event]) -> None:
        """Detach it because the client broke a rule."""
        self.detach(error)
        events.append(LinkDetached(cast("Link", self), closed=True, error=error))


@final
class ReceivingLink(_Link):
    """A link over which the client sends.

    Attributes:
        max_message_size: bytes of the largest message that is taken.
    """

    __slots__ = (
        "_count",
        "_credit",
        "_first",
        "_parts",
        "_size",
        "_unsettled",
        "_window",
        "max_message_size",
    )

    def __init__(self, session: Session, attach: Attach, size: int) -> None:
        super().__init__(session, attach, size)
        self.max_message_size = session.connection.limits.max_message_size
        self._count = attach.initial_delivery_count or 0
        self._credit = 0  # what the client has left
        self._window = 0  # what the owner allows
        self._unsettled = 0
        # The parts of a delivery that is not whole, if there is one, and what its first frame said.
        self._parts: list[bytes] | None = None
        self._first: Delivery = cast("Delivery", None)
        self._size = 0

    @property
    def address(self) -> str:
        """Where the client wants its messages to go: the target's address."""
        address = self.target.address
        return str(address) if isinstance(address, str) else ""

    def accept(
        self,
        credit: int,
        *,
        source: Source | None = None,
        target: Target | None = None,
        properties: Map | None = None,
        max_message_size: int | None = None,
    ) -> None:
        """Let the client send. Ignored when it has detached meanwhile.

        Args:
            credit: as for `set_credit`.
            source: for the answer; None for what the client asked for. So `target`.
            target: likewise.
            properties: for the answer.
            max_message_size: in bytes; None for the connection's limit.
        """
        if self.state != PENDING:
            return
        if max_message_size is not None:
            self.max_message_size = max_message_size
        self._answer(source, target, properties, self.max_message_size)
        self.state = ATTACHED
        self.set_credit(credit)

    def set_credit(self, credit: int) -> None:
        """Allow so many deliveries at a time to be on their way or not settled yet.

        Credit is granted again as deliveries are settled, without asking; those that came settled
        count as settled at once. What has been granted stays granted when this is lowered.
        """
        self._window = credit
        self._top_up()

    # For deliveries and the session.

    def settle(self, delivery_id: int, state: DeliveryState | None) -> None:
        """Tell the client what became of a delivery; None for accepted."""
        if self.state != ATTACHED:
            return
        self._unsettled -= 1
        session = self.session
        if state is None:
            session.accepted(delivery_id)
        else:
            session.write_disposition(delivery_id, state, from_receiver=True)
        self._top_up()

    def receive(self, fields: list[Value], payload: bytes, events: list[Event]) -> None:
        """Take a transfer."""
        if self.state == DETACH_SENT:
            return
        missing = 11 - len(fields)
        if missing:
            if missing < 0:
                raise RemoteProtocolError("transfer has too many fields", INVALID_FIELD)
            fields += [None] * missing
        if self._parts is not None:
            self._continue(fields, payload, events)
            return
        if self._credit <= 0:
            self.violated(Error(TRANSFER_LIMIT_EXCEEDED, "There was no credit."), events)
            return
        _, delivery_id, tag, message_format, settled, more, _, _, _, aborted, _ = fields
        tag = tag or b""
        message_format = message_format or 0
        if (
            type(delivery_id) is not int
            or not 0 <= delivery_id <= SERIAL
            or type(tag) is not bytes
            or type(message_format) is not int
        ):
            raise RemoteProtocolError("transfer has fields of wrong types", INVALID_FIELD)
        self._credit -= 1
        self._count = (self._count + 1) & SERIAL
        delivery = Delivery(
            self, delivery_id, tag, message_format, payload, settled=settled is True
        )
        if aborted is True:
            self._top_up()
        elif more is True:
            self._first = delivery
            self._parts = []
            self._add(payload, events)
        elif len(payload) > self.max_message_size:
            self._too_large(events)
        else:
            self._deliver(delivery, events)

    def updated(self, flow: Flow, events: list[Event]) -> None:
        """Take the client's view of the link, which only asks for ours."""
        if flow.echo:
            self.session.write_flow(self.handle, self._count, max(self._credit, 0))

    def flow(self) -> None:
        """Grant what is missing."""
        if self.state == ATTACHED:
            self._credit = max(self._window - self._unsettled, self._credit)
            self.session.write_flow(self.handle, self._count, self._credit)

    def release(self) -> None:
        """Give back what it holds."""
        self._drop()

    def _continue(self, fields: list[Value], payload: bytes, events: list[Event]) -> None:
        _, delivery_id, tag, _, settled, more, _, _, _, aborted, _ = fields
        delivery = self._first
        if delivery_id not in {None, delivery.delivery_id} or tag not in {None, delivery.tag}:
            raise RemoteProtocolError("transfers of two deliveries are mixed", INVALID_FIELD)
        if aborted is True:
            self._drop()
            self._top_up()
            return
        if settled is True:
            delivery.settled = True
        if self._add(payload, events) and more is not True:
            delivery.payload = b"".join(self._parts or ())
            self._drop()
            self._deliver(delivery, events)

    def _add(self, payload: bytes, events: list[Event]) -> bool:
        size = self._size + len(payload)
        if size > self.max_message_size:
            self._too_large(events)
            return False
        self.session.connection.held.add_parts(len(payload))
        self._size = size
        if self._parts is not None and payload:
            self._parts.append(payload)
        return True

    def _drop(self) -> None:
        self.session.connection.held.add_parts(-self._size)
        self._size = 0
        self._parts = None
        self._first = cast("Delivery", None)

    def _too_large(self, events: list[Event]) -> None:
        limit = self.max_message_size
        self.violated(
            Error(MESSAGE_SIZE_EXCEEDED, f"The message is larger than {limit} bytes."), events
        )

    def _deliver(self, delivery: Delivery, events: list[Event]) -> None:
        if delivery.settled:
            self._top_up()
        else:
            self._unsettled += 1
        events.append(delivery)

    def _top_up(self) -> None:
        missing = self._window - self._credit - self._unsettled
        # By halves, so that not every message costs a flow.
        if missing > 0 and missing * 2 >= self._window:
            self.session.to_flow(self)


@final
class SendingLink(_Link):
    """A link over which the client receives.

    Attributes:
        drain: whether the client wants to hear when there is nothing to send; see `drained`.
    """

    __slots__ = ("count", "drain", "granted", "waiting")

    def __init__(self, session: Session, attach: Attach, size: int) -> None:
        super().__init__(session, attach, size)
        self.drain = False
        self.count = 0
        self.granted = 0  # what the client has granted and is not used
        self.waiting: deque[Sent] = deque()

    @property
    def address(self) -> str:
        """Where the client wants its messages to come from: the source's address."""
        address = self.source.address
        return str(address) if isinstance(address, str) else ""

    @property
    def credit(self) -> int:
        """How many more messages would leave at once, as far as the client's credit goes."""
        waiting = self.waiting
        # Of what has begun, the credit is used up already.
        begun = 1 if waiting and waiting[0].delivery_id is not None else 0
        return max(self.granted - len(waiting) + begun, 0)

    @property
    def queued(self) -> int:
        """How many messages wait for the client's credit or its session's window."""
        return len(self.waiting)

    def accept(
        self,
        *,
        source: Source | None = None,
        target: Target | None = None,
        properties: Map | None = None,
        max_message_size: int | None = None,
    ) -> None:
        """Let the client receive; what was sent before leaves now, if there is credit.

        Args:
            source: for the answer; None for what the client asked for, filters included.
            target: likewise.
            properties: for the answer.
            max_message_size: for the answer, in bytes.
        """
        if self.state == PENDING:
            self._answer(source, target, properties, max_message_size)
            self.state = ATTACHED
            if self.waiting:
                self.session.pump(self)

    def send(
        self,
        payload: bytes,
        *,
        tag: bytes | None = None,
        settled: bool = False,
        message_format: int = 0,
        context: Any = None,
    ) -> Sent:
        """Send a message, as soon as the client's credit allows.

        Whoever has much to send looks at `credit` first and goes on at `CreditChanged`; a client
        for which too much is queued loses its connection (`ConnectionLimits.waiting_size`).
        Messages for a link that is detached are dropped.

        Args:
            payload: see `messages.encode`.
            tag: the delivery's tag, at most 32 bytes; None for a counter of 16 bytes, which is the
                length that the C# SDK insists on (hub-device.md 0.6).
            settled: True if the client need not answer, and will not.
            message_format: 0 for one message.
            context: whatever the owner wants to find again in `OutcomeReceived.sent`.

        Raises:
            LocalProtocolError: the tag is too long.
        """
        if tag is None:
            tag = ((self.count + len(self.waiting)) & SERIAL).to_bytes(16)
        elif len(tag) > 32:
            raise LocalProtocolError("delivery tag is longer than 32 bytes")
        sent = Sent(self, tag, message_format, payload, context, settled=settled)
        if self.state <= ATTACHED:
            self.waiting.append(sent)
            if self.state == ATTACHED:
                self.session.pump(self)
            if self.waiting and self.waiting[-1] is sent:
                sent.held = len(payload) + _SENT_SIZE
                self.session.connection.hold_waiting(sent.held)
        return sent

    def drained(self) -> None:
        """Use up the credit, because there is nothing to send. Ignored unless `drain` is set."""
        if self.state == ATTACHED and self.drain and not self.waiting:
            self.count = (self.count + self.granted) & SERIAL
            self.granted = 0
            self.session.write_flow(self.handle, self.count, 0, drain=True)

    # For what was sent and the session.

    def forget(self, sent: Sent, state: DeliveryState | None) -> None:
        """Settle what was sent, or do not send it."""
        if self.state > ATTACHED:
            return
        if sent.delivery_id is None:
            self.waiting.remove(sent)
            self.session.connection.hold_waiting(-sent.held)
        else:
            self.session.unsettled.pop(sent.delivery_id, None)
            self.session.write_disposition(sent.delivery_id, state, from_receiver=False)

    def updated(self, flow: Flow, events: list[Event]) -> None:
        """Take the credit that the client grants."""
        if flow.link_credit is not None:
            # What it knows of our count may be old: what is on its way is used already (2.6.7).
            behind = (self.count - (flow.delivery_count or 0)) & SERIAL
            self.granted = max(flow.link_credit - behind, 0)
            self.drain = flow.drain
            if self.waiting:
                self.session.pump(self)
            events.append(CreditChanged(self))
        if flow.echo and self.state == ATTACHED:
            self.session.write_flow(self.handle, self.count, self.granted, drain=self.drain)

    def release(self) -> None:
        """Give back what it holds."""
        self.session.connection.hold_waiting(-sum(sent.held for sent in self.waiting))
        self.waiting.clear()
        self.session.forget_sent(self)


Link: TypeAlias = ReceivingLink | SendingLink
