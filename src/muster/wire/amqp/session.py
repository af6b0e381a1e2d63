"""Sessions: the links of one identity or purpose, and the window they share (2.5).

A client may open many on one connection, one for each device behind it (hub-device.md 3.8). They
are answered here; owners meet them as `link.session`, to end all links of one at once.

Channel and handle numbers are the client's own in both directions: a server never begins a session
or attaches a link, so nothing can collide.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, final

from muster.wire.amqp import bodies
from muster.wire.amqp.bodies import LAYOUTS
from muster.wire.amqp.errors import (
    FRAMING_ERROR,
    HANDLE_IN_USE,
    UNATTACHED_HANDLE,
    WINDOW_VIOLATION,
    RemoteProtocolError,
)
from muster.wire.amqp.events import CreditChanged, LinkAttached, LinkDetached, OutcomeReceived
from muster.wire.amqp.frames import HEADER_SIZE, frame
from muster.wire.amqp.link import (
    ATTACHED,
    DETACH_SENT,
    SERIAL,
    ReceivingLink,
    SendingLink,
)
from muster.wire.amqp.performatives import (
    CLIENT_SENDS,
    Attach,
    Begin,
    DeliveryState,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Performative,
)

if TYPE_CHECKING:
    from muster.wire.amqp.connection import ServerConnection
    from muster.wire.amqp.deliveries import Sent
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.types import Value

_ATTACH: Final = 0x12
_FLOW: Final = 0x13
_TRANSFER: Final = 0x14
_DISPOSITION: Final = 0x15
_DETACH: Final = 0x16
_END: Final = 0x17

# Frames that are written in great numbers, at their full length.
_flow_head: Final = struct.Struct(">IBBH 3sBBB BI BI BI BI").pack
_flow_link: Final = struct.Struct(">BI BI BI B B B B").pack
_accepted: Final = struct.Struct(">IBBH 3sBBB B BI BI B 3sBBB B").pack
_transfer_head: Final = struct.Struct(">3sBBB BI BI BB").pack
_transfer_tail: Final = struct.Struct(">BI B B BB BB B").pack
_NO_LINK: Final = b"\x40" * 4 + b"\x42\x42\x40"


@final
class Session:
    """One session.

    Attributes:
        connection: the connection it belongs to.
        channel: its number.
        links: by handle, those that the client has not detached.
    """

    __slots__ = (
        "_accepted",
        "_dirty",
        "_ended",
        "_flowing",
        "_incoming",
        "_next_delivery_id",
        "_next_incoming_id",
        "_next_outgoing_id",
        "_remote_window",
        "_waiting",
        "channel",
        "connection",
        "links",
        "unsettled",
    )

    def __init__(self, connection: ServerConnection, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = channel
        self.links: dict[int, Link] = {}
        self.unsettled: dict[int, Sent] = {}
        self._ended = False
        self._next_incoming_id = begin.next_outgoing_id
        self._incoming = connection.limits.incoming_window
        self._next_outgoing_id = 0
        self._remote_window = begin.incoming_window
        self._next_delivery_id = 0
        # What the next flush has to say.
        self._dirty = False
        self._accepted: list[int] = []
        self._flowing: dict[ReceivingLink, None] = {}
        # Links with something to send that the window does not let pass.
        self._waiting: dict[SendingLink, None] = {}
        limits = connection.limits
        self.write(
            Begin(
                remote_channel=channel,
                next_outgoing_id=0,
                incoming_window=limits.incoming_window,
                outgoing_window=limits.outgoing_window,
                handle_max=limits.handle_max,
            )
        )

    @property
    def ended(self) -> bool:
        """Whether it was ended by either side."""
        return self._ended

    def end(self, error: Error | None = None) -> None:
        """End it and all its links. No `LinkDetached` follows."""
        if not self._ended:
            self.flush()
            self._drop_links()
            self.write(End(error))

    # For the connection.

    def receive(self, code: int, fields: list[Value], payload: bytes, events: list[Event]) -> None:
        """Take a frame."""
        if code == _END:
            self._receive_end(LAYOUTS[_END].from_list(fields), events)
        elif self._ended:
            return
        elif code == _TRANSFER:
            self._receive_transfer(fields, payload, events)
        elif code == _DISPOSITION:
            self._receive_disposition(LAYOUTS[_DISPOSITION].from_list(fields), events)
        elif code == _FLOW:
            self._receive_flow(LAYOUTS[_FLOW].from_list(fields), events)
        elif code == _ATTACH:
            size = len(payload)
            self._receive_attach(LAYOUTS[_ATTACH].from_list(fields), size, events)
        else:
            self._receive_detach(LAYOUTS[_DETACH].from_list(fields), events)

    def flush(self) -> None:
        """Write what has been put off to be said together."""
        self._dirty = False
        if self._ended:
            return
        if self._accepted:
            self._write_accepted()
        flowing, self._flowing = self._flowing, {}
        for link in flowing:
            link.flow()
        if self._incoming * 2 <= self.connection.limits.incoming_window:
            self.write_flow()

    def lost(self) -> None:
        """Note that the connection is over."""
        if not self._ended:
            self._drop_links()

    # For links and deliveries.

    def accepted(self, delivery_id: int) -> None:
        """Accept a delivery at the next flush."""
        self._accepted.append(delivery_id)
        if not self._dirty:
            self._mark()

    def to_flow(self, link: ReceivingLink) -> None:
        """Grant credit at the next flush."""
        self._flowing[link] = None
        if not self._dirty:
            self._mark()

    def write(self, performative: Performative) -> None:
        """Write a frame without payload."""
        self.connection.write(frame(self.channel, bodies.encode(performative)))

    def write_disposition(
        self, delivery_id: int, state: DeliveryState | None, *, from_receiver: bool
    ) -> None:
        """Settle one delivery."""
        self.write(Disposition(from_receiver, delivery_id, delivery_id, settled=True, state=state))

    def write_flow(
        self,
        handle: int | None = None,
        delivery_count: int = 0,
        link_credit: int = 0,
        *,
        drain: bool = False,
    ) -> None:
        """Write a flow of the session, and of a link if there is a handle."""
        window = self._incoming = self.connection.limits.incoming_window
        size = 34 + (len(_NO_LINK) if handle is None else 19)
        head = _flow_head(
            size,
            2,
            0,
            self.channel,
            b"\0\x53\x13",
            0xC0,
            size - 13,
            11,
            0x70,
            self._next_incoming_id,
            0x70,
            window,
            0x70,
            self._next_outgoing_id,
            0x70,
            self.connection.limits.outgoing_window,
        )
        tail = (
            _NO_LINK
            if handle is None
            else _flow_link(
                0x70,
                handle,
                0x70,
                delivery_count,
                0x70,
                min(link_credit, SERIAL),
                0x40,
                0x41 if drain else 0x42,
                0x42,
                0x40,
            )
        )
        self.connection.write(head + tail)

    def pump(self, link: SendingLink) -> None:
        """Send what waits at a link, as far as credit and window allow.

        What was accepted before is said before: uamqp, below the C SDK, takes an answer to a
        request that is not settled yet for a mistake.
        """
        waiting = link.waiting
        if waiting and self._accepted:
            self._write_accepted()
        while waiting:
            sent = waiting[0]
            if sent.delivery_id is None:
                if not link.granted:
                    return
                if not self._remote_window:
                    self._waiting[link] = None
                    return
                link.granted -= 1
                link.count = (link.count + 1) & SERIAL
                sent.delivery_id = self._next_delivery_id
                self._next_delivery_id = (sent.delivery_id + 1) & SERIAL
                if not sent.settled:
                    self.unsettled[sent.delivery_id] = sent
            if not self._transmit(link.handle, sent, sent.delivery_id):
                self._waiting[link] = None
                return
            sent.payload = b""
            waiting.popleft()
            if sent.held:
                self.connection.hold_waiting(-sent.held)
        self._waiting.pop(link, None)

    def forget_sent(self, link: SendingLink) -> None:
        """Forget what is not settled of a link that is gone."""
        self._waiting.pop(link, None)
        gone = [number for number, sent in self.unsettled.items() if sent.link is link]
        for number in gone:
            del self.unsettled[number]

    # Within.

    def _mark(self) -> None:
        self._dirty = True
        self.connection.to_flush(self)

    def _transmit(self, handle: int, sent: Sent, delivery_id: int) -> bool:
        """Write a message in as many frames as it takes; return whether it is whole."""
        tag = sent.tag
        fields = 10 + 2 + len(tag) + 12
        head = _transfer_head(
            b"\0\x53\x14", 0xC0, fields + 1, 11, 0x70, handle, 0x70, delivery_id, 0xA0, len(tag)
        )
        room = self.connection.peer_max_frame_size - HEADER_SIZE - 6 - fields
        payload = sent.payload
        while self._remote_window > 0:
            start = sent.offset
            end = start + room
            more = end < len(payload)
            part = payload[start:end] if more or start else payload
            tail = _transfer_tail(
                0x70,
                sent.message_format,
                0x41 if sent.settled else 0x42,
                0x41 if more else 0x42,
                0x40,
                0x40,
                0x42,
                0x42,
                0x42,
            )
            self.connection.write(frame(self.channel, head, tag, tail, part))
            self._remote_window -= 1
            self._next_outgoing_id = (self._next_outgoing_id + 1) & SERIAL
            sent.offset = end
            if not more:
                return True
        return False

    def _write_accepted(self) -> None:
        """Accept what has been collected, each run of numbers with one frame."""
        ids, self._accepted = self._accepted, []
        first = last = ids[0]
        for number in ids[1:]:
            if number == last + 1:
                last = number
            else:
                self._write_accepted_run(first, last)
                first = last = number
        self._write_accepted_run(first, last)

    def _write_accepted_run(self, first: int, last: int) -> None:
        self.connection.write(
            _accepted(
                33,
                2,
                0,
                self.channel,
                b"\0\x53\x15",
                0xC0,
                20,
                6,
                0x41,
                0x70,
                first,
                0x70,
                last,
                0x41,
                b"\0\x53\x24",
                0xC0,
                1,
                0,
                0x42,
            )
        )

    def _receive_transfer(self, fields: list[Value], payload: bytes, events: list[Event]) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) & SERIAL
        self._incoming -= 1
        if self._incoming < 0:
            self._violated(WINDOW_VIOLATION, "The window is exceeded.", events)
            return
        if self._incoming * 2 <= self.connection.limits.incoming_window and not self._dirty:
            self._mark()
        link = self.links.get(fields[0]) if fields else None
        if isinstance(link, ReceivingLink):
            link.receive(fields, payload, events)
        else:
            self._violated(UNATTACHED_HANDLE, "There is no such link to send over.", events)

    def _receive_disposition(self, disposition: Disposition, events: list[Event]) -> None:
        if not disposition.role:
            # Of what the client sent; it was settled here before (rcv-settle-mode first).
            return
        first = disposition.first
        count = ((disposition.first if disposition.last is None else disposition.last) - first) & (
            SERIAL
        )
        unsettled = self.unsettled
        if count < len(unsettled):
            numbers = [(first + at) & SERIAL for at in range(count + 1)]
        else:
            numbers = [number for number in unsettled if (number - first) & SERIAL <= count]
        state = disposition.state
        for number in numbers:
            sent = unsettled.get(number)
            if sent is None:
                continue
            if state is not None:
                sent.state = state
            if disposition.settled:
                sent.settled = True
                del unsettled[number]
            events.append(OutcomeReceived(sent, sent.state, disposition.settled))

    def _receive_flow(self, flow: Flow, events: list[Event]) -> None:
        # What is on its way and has not been seen by the client yet fills its window (2.5.6).
        on_its_way = (self._next_outgoing_id - (flow.next_incoming_id or 0)) & SERIAL
        self._remote_window = max(flow.incoming_window - on_its_way, 0)
        if flow.handle is not None:
            link = self.links.get(flow.handle)
            if link is None:
                self._violated(UNATTACHED_HANDLE, "There is no such link.", events)
                return
            if link.state <= ATTACHED:
                link.updated(flow, events)
        elif flow.echo:
            self.write_flow()
        for waiting in list(self._waiting):
            self.pump(waiting)
            if not waiting.waiting:
                events.append(CreditChanged(waiting))

    def _receive_attach(self, attach: Attach, size: int, events: list[Event]) -> None:
        handle = attach.handle
        if handle > self.connection.limits.handle_max:
            raise RemoteProtocolError("handle is above handle-max", FRAMING_ERROR)
        if handle in self.links:
            self._violated(HANDLE_IN_USE, "The handle is in use.", events)
            return
        self.connection.held.add_link(size)
        link: Link = (
            ReceivingLink(self, attach, size)
            if attach.role is CLIENT_SENDS
            else SendingLink(self, attach, size)
        )
        self.links[handle] = link
        events.append(LinkAttached(link))

    def _receive_detach(self, detach: Detach, events: list[Event]) -> None:
        link = self.links.get(detach.handle)
        if link is None:
            self._violated(UNATTACHED_HANDLE, "There is no such link.", events)
            return
        del self.links[detach.handle]
        self.connection.held.remove_link(link.size)
        if link.state != DETACH_SENT:
            self.flush()
            link.detached()
            self.write(Detach(detach.handle, closed=detach.closed))
            events.append(LinkDetached(link, detach.closed, detach.error))

    def _receive_end(self, end: End, events: list[Event]) -> None:
        self.connection.forget_session(self)
        if not self._ended:
            self.flush()
            self._tell_detached(self._drop_links(), end.error, events)
            self.write(End())

    def _violated(self, condition: str, description: str, events: list[Event]) -> None:
        """End the session because the client broke a rule."""
        error = Error(condition, description)
        self.flush()
        self._tell_detached(self._drop_links(), error, events)
        self.write(End(error))

    def _drop_links(self) -> list[Link]:
        """Mark the session and its links as over, and return the links that were not."""
        self._ended = True
        links = list(self.links.values())
        self.links.clear()
        self._flowing.clear()
        alive = [link for link in links if link.state <= ATTACHED]
        for link in links:
            self.connection.held.remove_link(link.size)
        for link in alive:
            link.ended()
        self.unsettled.clear()
        return alive

    def _tell_detached(self, links: list[Link], error: Error | None, events: list[Event]) -> None:
        events.extend(LinkDetached(link, closed=True, error=error) for link in links)
