"""Links over which the client receives: credit, windows, outcomes."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peers import PAYLOAD, Client

from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.errors import LocalProtocolError
from muster.wire.amqp.events import CreditChanged, OutcomeReceived
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Close,
    Detach,
    Disposition,
    Error,
    Flow,
    Modified,
    Rejected,
    Released,
    Transfer,
)


class TestSending:
    def test_sent_at_once(self) -> None:
        client = Client()
        link = client.receiver(credit=2)
        assert link.credit == 2
        sent = link.send(PAYLOAD, context="c")
        assert (link.credit, link.queued) == (1, 0)
        assert (sent.link, sent.context, sent.delivery_id, sent.settled) == (link, "c", 0, False)
        assert repr(sent) == "Sent(delivery_id=0, tag=<16 bytes>, settled=False, state=None)"
        ((channel, transfer, payload),) = client.frames()
        assert (channel, payload) == (0, PAYLOAD)
        assert transfer == Transfer(1, 0, bytes(16), 0, settled=False)

    def test_what_was_accepted_before_is_said_before(self) -> None:
        client = Client()
        client.sender()
        answers = client.receiver(handle=1)
        (request,) = client.transfer(7)
        assert isinstance(request, Delivery)
        request.accept()
        answers.send(b"answer", settled=True)
        assert [type(one) for one in client.said()] == [Disposition, Transfer]

    def test_what_waits_for_credit_is_bounded(self) -> None:
        client = Client(waiting_size=10_000)
        links = [client.receiver(0, handle) for handle in (1, 2)]
        given_up, _ = [link.send(bytes(4_000)) for link in links]
        # What is given up, detached or sent is not counted any more.
        given_up.settle()
        links[1].detach()
        for _ in range(2):
            links[0].send(bytes(4_000))
        client.grant(2)
        assert links[0].queued == 0
        for _ in range(2):
            links[0].send(bytes(4_000))
        assert not client.connection.closed
        links[0].send(bytes(4_000))
        close = client.said()[-1]
        assert isinstance(close, Close)
        assert close.error is not None
        assert close.error.condition == "amqp:resource-limit-exceeded"
        assert client.connection.closed

    def test_settled_and_named(self) -> None:
        client = Client()
        link = client.receiver()
        link.send(b"x", tag=b"0123456789abcdef", settled=True, message_format=7)
        (transfer,) = client.said()
        assert transfer == Transfer(1, 0, b"0123456789abcdef", 7, settled=True)
        with pytest.raises(LocalProtocolError, match="longer than 32 bytes"):
            link.send(b"x", tag=bytes(33))

    def test_tags_differ(self) -> None:
        client = Client()
        link = client.receiver(credit=2)
        tags = {link.send(b"x").tag for _ in range(5)}
        client.grant(10)
        tags |= {link.send(b"x").tag for _ in range(2)}
        assert len(tags) == 7
        assert {len(tag) for tag in tags} == {16}

    def test_waits_for_credit(self) -> None:
        client = Client()
        link = client.attach_receiver()
        link.send(b"0")
        link.accept()
        assert link.queued == 1
        assert [type(one) for one in client.said()] == [Attach]
        link.send(b"1")
        link.send(b"2")
        (event,) = client.grant(2)
        assert isinstance(event, CreditChanged)
        assert event.link is link
        assert [payload for _, _, payload in client.frames()] == [b"0", b"1"]
        assert (link.credit, link.queued) == (0, 1)
        # Both ends know of two messages.
        client.grant(1, delivery_count=2)
        assert [payload for _, _, payload in client.frames()] == [b"2"]

    def test_credit_before_it_is_accepted(self) -> None:
        """As uamqp and azure-eventhub grant it."""
        client = Client()
        link = client.attach_receiver()
        client.send(Flow(1_000, 0, 1_000, None, 1, link_credit=3))
        assert link.credit == 3
        link.send(b"x")
        assert client.said() == []
        link.accept()
        assert [type(one) for one in client.said()] == [Attach, Transfer]

    def test_what_is_on_its_way_uses_credit(self) -> None:
        client = Client()
        link = client.receiver(credit=5)
        for _ in range(3):
            link.send(b"x")
        client.grant(5, delivery_count=1)
        assert link.credit == 3
        client.grant(1, delivery_count=0)
        assert link.credit == 0

    def test_fragments(self) -> None:
        client = Client(max_frame_size=512)
        link = client.receiver()
        payload = bytes(range(256)) * 10
        link.send(payload)
        link.send(b"next")
        data = client.connection.outgoing()
        client._buffer.feed(data)
        assert len(data) > 2_560
        frames = []
        while (one := client._buffer.next(512)) is not None:
            frames.append(one)
        client.connection.write(data)
        parts = client.frames()
        assert len(parts) == len(frames) == 7
        assert b"".join(part for _, _, part in parts[:-1]) == payload
        assert [transfer.more for _, transfer, _ in parts] == [True] * 5 + [False] * 2
        assert {transfer.delivery_id for _, transfer, _ in parts[:-1]} == {0}
        assert parts[-1][1].delivery_id == 1

    def test_waits_for_the_window(self) -> None:
        client = Client(max_frame_size=512)
        link = client.receiver(credit=10)
        other = client.receiver(credit=10, handle=2)
        client.send(Flow(3, 0, 9, 0))
        link.send(bytes(2_000))
        other.send(b"y")
        assert len(client.said()) == 3
        assert (link.queued, other.queued) == (1, 1)
        assert client.send(Flow(1, 0, 9, 3)) == []
        assert [one.more for one in client.said()] == [True]
        # What the client has not seen yet fills its window.
        (event,) = client.send(Flow(3, 0, 9, 2))
        assert isinstance(event, CreditChanged)
        assert event.link is link
        assert [(one.handle, one.more) for one in client.said()] == [(1, False)]
        client.send(Flow(3, 0, 9, 5))
        assert [(one.handle, one.more) for one in client.said()] == [(2, False)]
        assert (link.queued, other.queued) == (0, 0)

    @pytest.mark.parametrize("state", [Accepted(), Rejected(), Released(), Modified()], ids=repr)
    def test_outcome(self, state: Any) -> None:
        client = Client()
        link = client.receiver()
        sent = link.send(b"x")
        (event,) = client.send(Disposition(role=True, first=0, settled=True, state=state))
        assert isinstance(event, OutcomeReceived)
        assert (event.sent, event.state, event.settled) == (sent, state, True)
        assert sent.settled
        client.said()
        sent.settle()
        assert client.said() == []
        assert client.send(Disposition(role=True, first=0, settled=True)) == []

    def test_second(self) -> None:
        """The client waits for us to settle (hub-device.md 3.5)."""
        client = Client()
        link = client.receiver()
        sent = link.send(b"x")
        (event,) = client.send(Disposition(role=True, first=0, state=Accepted()))
        assert isinstance(event, OutcomeReceived)
        assert not event.settled
        assert not sent.settled
        client.said()
        sent.settle()
        assert client.said() == [
            Disposition(role=False, first=0, last=0, settled=True, state=Accepted())
        ]

    def test_another_outcome_than_the_client_wanted(self) -> None:
        client = Client()
        sent = client.receiver().send(b"x")
        client.send(Disposition(role=True, first=0, state=Accepted()))
        client.said()
        lost = Rejected(Error("com.microsoft:message-lock-lost"))
        sent.settle(lost)
        assert client.said()[0].state == lost

    def test_settled_without_an_outcome(self) -> None:
        client = Client()
        client.receiver().send(b"x")
        (event,) = client.send(Disposition(role=True, first=0, settled=True))
        assert isinstance(event, OutcomeReceived)
        assert event.state is None

    @pytest.mark.parametrize(("first", "last"), [(0, 4), (0, 2**32 - 1), (2**32 - 9, 4)])
    def test_range(self, first: int, last: int) -> None:
        client = Client()
        link = client.receiver()
        sent = [link.send(b"x") for _ in range(5)]
        events = client.send(
            Disposition(role=True, first=first, last=last, settled=True, state=Accepted())
        )
        assert [event.sent for event in events if isinstance(event, OutcomeReceived)] == sent

    def test_range_of_a_few(self) -> None:
        client = Client()
        link = client.receiver()
        sent = [link.send(b"x") for _ in range(5)]
        events = client.send(Disposition(role=True, first=1, last=2, settled=True))
        assert [e.sent for e in events if isinstance(e, OutcomeReceived)] == sent[1:3]

    def test_given_up(self) -> None:
        client = Client()
        link = client.receiver(credit=1)
        out, waiting = link.send(b"x"), link.send(b"y")
        client.said()
        out.settle(Released())
        waiting.settle()
        assert client.said() == [
            Disposition(role=False, first=0, last=0, settled=True, state=Released())
        ]
        client.grant(5)
        assert client.said() == []
        assert client.send(Disposition(role=True, first=0, settled=True)) == []

    def test_drained(self) -> None:
        client = Client()
        link = client.receiver(credit=0)
        link.drained()
        (event,) = client.grant(5, drain=True)
        assert isinstance(event, CreditChanged)
        assert link.drain
        link.send(b"x")
        link.drained()
        transfer, flow = client.said()
        assert isinstance(transfer, Transfer)
        assert flow == Flow(2_048, 1, 5_000, 0, 1, 5, 0, drain=True)
        assert link.credit == 0
        client.grant(1, delivery_count=5)
        assert (link.credit, link.drain) == (1, False)

    def test_nothing_is_drained_while_something_waits(self) -> None:
        client = Client()
        link = client.receiver(credit=0)
        client.send(Flow(0, 0, 9, 0, 1, 0, 5, drain=True))
        link.send(b"x")
        link.drained()
        assert client.said() == []

    def test_what_waits_goes_with_its_link(self) -> None:
        client = Client()
        link = client.receiver(credit=1)
        sent = link.send(b"x")
        link.send(b"y")
        client.send(Detach(1, closed=True))
        client.said()
        assert link.queued == 0
        link.send(b"z")
        sent.settle()
        assert client.said() == []
        assert client.send(Disposition(role=True, first=0, settled=True)) == []

    def test_ids_wrap_around(self) -> None:
        client = Client()
        link = client.receiver(credit=5)
        link.session._next_delivery_id = link.session._next_outgoing_id = 2**32 - 1
        client.send(Flow(1_000, 0, 9, 2**32 - 1))
        sent = [link.send(b"x") for _ in range(2)]
        assert [one.delivery_id for one in sent] == [2**32 - 1, 0]
        events = client.send(Disposition(role=True, first=2**32 - 1, last=0, settled=True))
        assert [e.sent for e in events if isinstance(e, OutcomeReceived)] == sent
