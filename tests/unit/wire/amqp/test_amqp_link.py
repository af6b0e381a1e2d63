"""Sessions and links: attaching, credit, transfers, dispositions, windows."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peers import PAYLOAD, Client, encoded

from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.errors import LocalProtocolError, RemoteProtocolError
from muster.wire.amqp.events import CreditChanged, LinkAttached, LinkDetached, OutcomeReceived
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Modified,
    Rejected,
    Released,
    Source,
    Target,
    Transfer,
)
from muster.wire.amqp.types import Described, Symbol, ULong

NOT_FOUND = Error("amqp:not-found", "There is no such address.")


class TestAttach:
    def test_what_the_owner_sees(self) -> None:
        client = Client()
        attach = Attach(
            "l",
            3,
            role=True,
            snd_settle_mode=1,
            source=Source(
                "amqps://h/hub/ConsumerGroups/$Default/Partitions/0", filter={Symbol("f"): "x"}
            ),
            target=Target("t"),
            desired_capabilities=["com.microsoft:enable-receiver-runtime-metric"],
            properties={Symbol("com.microsoft:epoch"): 1},
        )
        link = client.attach(attach, SendingLink)
        assert link.attach == attach
        assert (link.name, link.handle, link.session.channel) == ("l", 3, 0)
        assert link.address == "amqps://h/hub/ConsumerGroups/$Default/Partitions/0"
        assert link.source.filter == {"f": "x"}
        assert link.target == Target("t")
        assert link.properties["com.microsoft:epoch"] == 1
        assert link.session.links == {3: link}
        assert not link.attached
        link.context = "anything"

    def test_sender_is_answered_with_credit(self) -> None:
        client = Client()
        link = client.attach_sender(address="/devices/d/messages/events", rcv_settle_mode=1)
        assert link.address == "/devices/d/messages/events"
        link.accept(50, max_message_size=1_000, properties={Symbol("k"): "v"})
        assert link.attached
        assert client.said() == [
            Attach(
                "sender-0",
                0,
                role=True,
                rcv_settle_mode=1,
                source=Source(),
                target=Target("/devices/d/messages/events"),
                max_message_size=1_000,
                properties={Symbol("k"): "v"},
            ),
            Flow(2_048, 0, 5_000, 0, 0, 0, 50),
        ]

    def test_receiver_is_answered(self) -> None:
        client = Client()
        link = client.attach_receiver(snd_settle_mode=0)
        link.accept(source=Source("other"))
        assert client.said() == [
            Attach(
                "receiver-1",
                1,
                role=False,
                snd_settle_mode=0,
                source=Source("other"),
                target=Target(),
                initial_delivery_count=0,
            )
        ]

    def test_coordinator_is_echoed(self) -> None:
        client = Client()
        coordinator = Described(ULong(0x30), [])
        link = client.attach(Attach("l", 0, role=False, target=coordinator), ReceivingLink)
        assert link.address == ""
        link.detach(Error("amqp:not-implemented"))
        attached, detached = client.said()
        assert attached.target == coordinator
        assert detached == Detach(0, closed=True, error=Error("amqp:not-implemented"))

    def test_address_that_is_no_text(self) -> None:
        client = Client()
        link = client.attach(Attach("l", 0, role=False, target=Target(5)), ReceivingLink)
        assert link.address == ""
        receiving = client.attach(Attach("l", 1, role=True, source=Source(5)), SendingLink)
        assert receiving.address == ""

    @pytest.mark.parametrize("role", [True, False])
    def test_refused(self, role: bool) -> None:  # noqa: FBT001
        client = Client()
        (event,) = client.send(Attach("l", 0, role=role, source=Source("s"), target=Target("t")))
        assert isinstance(event, LinkAttached)
        event.link.detach(NOT_FOUND)
        attached, detached = client.said()
        # Nobody reads a refusal without them (hub-service.md 0.3).
        assert (attached.source, attached.target) == (Source("s"), Target("t"))
        assert detached == Detach(0, closed=True, error=NOT_FOUND)
        event.link.detach()
        assert client.send(Detach(0, closed=True)) == []
        assert client.said() == []
        assert event.link.session.links == {}

    def test_same_name_again(self) -> None:
        client = Client()
        client.sender(handle=0)
        client.send(Begin(0, 1, 1), channel=5)
        client.sender(handle=0, channel=5)
        assert client.connection.opened

    def test_handle_in_use(self) -> None:
        client = Client()
        link = client.sender(handle=0)
        (event,) = client.send(Attach("other", 0, role=True))
        assert isinstance(event, LinkDetached)
        assert event.link is link
        (said,) = client.said()
        assert said.error.condition == "amqp:session:handle-in-use"
        assert not link.attached

    def test_handle_is_free_when_both_have_detached(self) -> None:
        client = Client()
        link = client.sender(handle=0)
        link.detach()
        (refused,) = client.send(Attach("other", 0, role=True), Detach(0)) or [None]
        assert refused is None
        (said,) = [one for one in client.said() if isinstance(one, End)]
        assert said.error is not None

    def test_too_many(self) -> None:
        client = Client(links=3)
        for handle in range(3):
            client.attach_sender(handle)
        with pytest.raises(RemoteProtocolError, match="too many links") as caught:
            client.attach_sender(3)
        assert caught.value.condition == "amqp:resource-limit-exceeded"

    def test_too_much(self) -> None:
        client = Client(attach_size=10_000)
        client.attach_sender(0, properties={Symbol("k"): "v" * 4_000}).detach()
        client.attach_sender(1, properties={Symbol("k"): "v" * 4_000})
        client.send(Detach(0, closed=True))
        client.attach_sender(0, properties={Symbol("k"): "v" * 4_000})
        with pytest.raises(RemoteProtocolError, match="too many links"):
            client.attach_sender(2, properties={Symbol("k"): "v" * 4_000})

    def test_late_answer_to_a_link_that_is_gone(self) -> None:
        client = Client()
        link = client.attach_sender()
        assert client.send(Detach(0, closed=True)) != []
        # A detach answers only what is attached.
        assert [type(one) for one in client.said()] == [Attach, Detach]
        link.accept(5)
        link.detach()
        assert client.said() == []


class TestDetach:
    @pytest.mark.parametrize("closed", [True, False])
    def test_by_the_client(self, closed: bool) -> None:  # noqa: FBT001
        client = Client()
        link = client.receiver()
        error = Error("amqp:internal-error")
        (event,) = client.send(Detach(1, closed=closed, error=error))
        assert isinstance(event, LinkDetached)
        assert (event.link, event.closed, event.error) == (link, closed, error)
        assert client.said() == [Detach(1, closed=closed)]
        assert not link.attached

    def test_by_the_owner(self) -> None:
        client = Client()
        link = client.sender()
        (delivery,) = client.transfer(0)
        assert isinstance(delivery, Delivery)
        delivery.accept()
        link.detach(Error("amqp:link:stolen"))
        # What has been decided is said before.
        assert client.said() == [
            Disposition(role=True, first=0, last=0, settled=True, state=Accepted()),
            Detach(0, closed=True, error=Error("amqp:link:stolen")),
        ]
        assert client.transfer(1) == []
        assert client.send(Flow(1, 0, 1, 0, 0, echo=True)) == []
        assert client.send(Detach(0, closed=True)) == []
        assert client.said() == []

    def test_unknown_handle(self) -> None:
        client = Client()
        link = client.sender(handle=4)
        (event,) = client.send(Detach(5))
        assert isinstance(event, LinkDetached)
        assert event.link is link
        (said,) = client.said()
        assert said.error.condition == "amqp:session:unattached-handle"
        # Until the client has ended the session as well, all else is ignored.
        assert client.send(Detach(5), Flow(1, 1, 1), End()) == []
        assert client.said() == []
        client.send(Begin(0, 1, 1))
        assert [type(one) for one in client.said()] == [Begin]

    @pytest.mark.parametrize(
        "said", [Transfer(9, 0, b"t"), Flow(1, 0, 1, 0, 9), Transfer(1, 0, b"t")], ids=repr
    )
    def test_no_such_link(self, said: Any) -> None:
        client = Client()
        client.receiver(handle=1)
        (event,) = client.send(said)
        assert isinstance(event, LinkDetached)
        (ended,) = client.said()
        assert ended.error.condition == "amqp:session:unattached-handle"


class TestSession:
    def test_ended_by_the_client(self) -> None:
        client = Client()
        links = [client.sender(), client.receiver()]
        error = Error("amqp:internal-error")
        events = client.send(End(error))
        assert [(e.link, e.closed, e.error) for e in events if isinstance(e, LinkDetached)] == [
            (links[0], True, error),
            (links[1], True, error),
        ]
        assert client.said() == [End()]
        assert links[0].session.ended

    def test_ended_by_the_owner(self) -> None:
        """As when another connection takes over one of many devices (hub-device.md 3.8)."""
        client = Client()
        client.send(Begin(0, 9, 9), channel=3)
        other = client.sender(channel=3)
        link = client.sender()
        error = Error("amqp:link:stolen")
        link.session.end(error)
        link.session.end()
        assert client.frames() == [(0, End(error), b"")]
        assert client.transfer(0) == []
        assert client.send(End()) == []
        assert client.said() == []
        assert not link.attached
        assert other.attached

    def test_window_is_renewed(self) -> None:
        client = Client(incoming_window=10)
        client.sender(credit=100)
        for number in range(4):
            client.transfer(number, settled=True)
        assert client.said() == []
        client.transfer(4, settled=True)
        assert client.said() == [Flow(10, 0, 5_000, 5)]
        for number in range(5, 10):
            client.transfer(number, settled=True)
        assert client.said() == [Flow(10, 0, 5_000, 10)]

    def test_window_is_exceeded(self) -> None:
        client = Client(incoming_window=10)
        client.sender(credit=100)
        transfers = [encoded(Transfer(0, at, b"t", settled=True), b"x") for at in range(11)]
        events = client.receive(b"".join(transfers))
        assert [type(event) for event in events] == [Delivery] * 10 + [LinkDetached]
        ended = client.said()[-1]
        assert ended.error.condition == "amqp:session:window-violation"

    def test_flow_is_echoed(self) -> None:
        client = Client()
        client.sender(credit=7)
        client.receiver(credit=3)
        client.send(Flow(1, 0, 1, 0, echo=True))
        client.send(Flow(1, 0, 1, 0, 0, 0, 0, echo=True))
        client.grant(5, echo=True)
        assert client.said() == [
            Flow(2_048, 0, 5_000, 0),
            Flow(2_048, 0, 5_000, 0, 0, 0, 7),
            Flow(2_048, 0, 5_000, 0, 1, 0, 5),
        ]


class TestReceiving:
    def test_delivery(self) -> None:
        client = Client()
        link = client.sender()
        (event,) = client.transfer(7)
        assert isinstance(event, Delivery)
        assert (event.link, event.delivery_id, event.tag) == (link, 7, b"t7")
        assert (event.message_format, event.payload, event.settled) == (0, PAYLOAD, False)
        assert repr(event).startswith("Delivery(delivery_id=7, tag=<2 bytes>, message_format=0x0")
        event.accept()
        event.accept()
        event.reject()
        assert event.settled
        assert client.said() == [
            Disposition(role=True, first=7, last=7, settled=True, state=Accepted())
        ]

    def test_batch_format_is_told(self) -> None:
        client = Client()
        client.sender()
        (event,) = client.receive(encoded(Transfer(0, 0, b"t", 0x8001_3700, settled=True), b"x"))
        assert isinstance(event, Delivery)
        assert event.message_format == 0x8001_3700
        assert event.settled
        event.accept()
        assert client.said() == []

    def test_outcomes(self) -> None:
        client = Client()
        client.sender(credit=10)
        deliveries = [client.transfer(number)[0] for number in range(4)]
        for delivery, outcome in zip(deliveries, "rejm", strict=True):
            assert isinstance(delivery, Delivery)
            match outcome:
                case "r":
                    delivery.release()
                case "e":
                    delivery.reject(NOT_FOUND)
                case "j":
                    delivery.settle(Modified(undeliverable_here=True))
                case "m":
                    delivery.settle(Accepted())
        said = client.said()
        assert [(one.first, one.last, one.settled, one.state) for one in said] == [
            (0, 0, True, Released()),
            (1, 1, True, Rejected(NOT_FOUND)),
            (2, 2, True, Modified(undeliverable_here=True)),
            (3, 3, True, Accepted()),
        ]

    def test_accepting_many_takes_one_frame(self) -> None:
        client = Client()
        client.sender(credit=100)
        deliveries = [client.transfer(number)[0] for number in (0, 1, 2, 5, 6, 8)]
        for delivery in deliveries:
            assert isinstance(delivery, Delivery)
            delivery.accept()
        assert [(one.first, one.last) for one in client.said()] == [(0, 2), (5, 6), (8, 8)]

    def test_credit_is_renewed_as_deliveries_are_settled(self) -> None:
        client = Client()
        client.sender(credit=4)
        deliveries = [client.transfer(number)[0] for number in range(4)]
        assert client.said() == []
        for at, delivery in enumerate(deliveries):
            assert isinstance(delivery, Delivery)
            delivery.accept()
            flows = [one for one in client.said() if isinstance(one, Flow)]
            granted = [(one.delivery_count, one.link_credit) for one in flows]
            assert granted == ([] if at in {0, 2} else [(4, at + 1)])

    def test_what_comes_settled_renews_credit_at_once(self) -> None:
        client = Client()
        client.sender(credit=2)
        client.transfer(0, settled=True)
        assert [(one.delivery_count, one.link_credit) for one in client.said()] == [(1, 2)]

    def test_credit_is_changed(self) -> None:
        client = Client()
        link = client.sender(credit=2)
        link.set_credit(10)
        (flow,) = client.said()
        assert flow.link_credit == 10
        link.set_credit(0)
        for number in range(10):
            assert len(client.transfer(number, settled=True)) == 1
        assert client.said() == []
        link.set_credit(1)
        assert [one.link_credit for one in client.said()] == [1]

    def test_no_credit(self) -> None:
        client = Client()
        link = client.sender(credit=1)
        client.transfer(0)
        (event,) = client.transfer(1)
        assert isinstance(event, LinkDetached)
        assert event.link is link
        (said,) = client.said()
        assert said.error.condition == "amqp:link:transfer-limit-exceeded"
        assert client.transfer(2) == []

    def test_before_it_is_accepted(self) -> None:
        client = Client()
        client.attach_sender()
        (event,) = client.transfer(0)
        assert isinstance(event, LinkDetached)
        assert [type(one) for one in client.said()] == [Attach, Detach]

    def test_parts(self) -> None:
        client = Client()
        client.sender()
        assert client.transfer(0, b"abc", more=True) == []
        # The following need not say again what it is.
        assert client.receive(encoded(Transfer(0, more=True), b"def")) == []
        assert client.connection.buffered == 6
        (event,) = client.receive(encoded(Transfer(0, 0, b"t0", 0, settled=True), b"ghi"))
        assert isinstance(event, Delivery)
        assert event.payload == b"abcdefghi"
        assert event.settled
        assert client.connection.buffered == 0

    def test_parts_of_two_links_in_turns(self) -> None:
        client = Client()
        client.sender(handle=0)
        client.sender(handle=2)
        client.transfer(0, b"a", more=True)
        client.transfer(1, b"x", handle=2, more=True)
        (first,) = client.transfer(0, b"b")
        (second,) = client.transfer(1, b"y", handle=2)
        assert isinstance(first, Delivery)
        assert isinstance(second, Delivery)
        assert (first.payload, second.payload) == (b"ab", b"xy")

    def test_aborted(self) -> None:
        client = Client()
        client.sender(credit=2)
        client.transfer(0, b"a", more=True)
        assert client.transfer(0, b"", aborted=True) == []
        assert client.connection.buffered == 0
        assert client.transfer(1, b"", aborted=True) == []
        assert [one.delivery_count for one in client.said()] == [2]
        (event,) = client.transfer(2, b"b")
        assert isinstance(event, Delivery)
        assert event.payload == b"b"

    @pytest.mark.parametrize("said", [Transfer(0, 1), Transfer(0, 0, b"other")], ids=repr)
    def test_mixed(self, said: Transfer) -> None:
        client = Client()
        client.sender()
        client.transfer(0, b"a", more=True)
        with pytest.raises(RemoteProtocolError, match="mixed"):
            client.receive(encoded(said, b"b"))

    @pytest.mark.parametrize("parts", [1, 3])
    def test_too_large(self, parts: int) -> None:
        client = Client()
        link = client.attach_sender()
        link.accept(10, max_message_size=300)
        client.said()
        size = 300 // parts
        for at in range(parts):
            events = client.transfer(0, bytes(size), more=at + 1 < parts)
        assert isinstance(events[0], Delivery)
        for at in range(parts):
            events = client.transfer(1, bytes(size + 1), more=at + 1 < parts)
        (event,) = events
        assert isinstance(event, LinkDetached)
        assert event.error is not None
        assert event.error.condition == "amqp:link:message-size-exceeded"
        assert client.said()[-1] == Detach(0, closed=True, error=event.error)
        assert client.connection.buffered == 0

    def test_too_many_parts_in_all(self) -> None:
        client = Client(partial_size=1_000)
        for handle in range(3):
            client.sender(handle=handle)
        client.transfer(0, bytes(400), more=True)
        client.transfer(1, bytes(400), handle=1, more=True)
        with pytest.raises(RemoteProtocolError, match="unfinished messages") as caught:
            client.transfer(2, bytes(400), handle=2, more=True)
        assert caught.value.condition == "amqp:resource-limit-exceeded"
        assert client.connection.buffered == 0

    def test_parts_go_with_their_link(self) -> None:
        client = Client()
        client.sender()
        client.transfer(0, bytes(400), more=True)
        client.send(Detach(0, closed=True))
        assert client.connection.buffered == 0

    @pytest.mark.parametrize(
        "data",
        [
            b"\x00\x53\x14\xc0\x02\x01\x43",
            b"\x00\x53\x14\xc0\x05\x03\x43\x40\xa0\x00",
            b"\x00\x53\x14\xc0\x06\x03\x43\x54\xff\xa0\x00",
            b"\x00\x53\x14\xc0\x06\x03\x43\x43\xa1\x01t",
            b"\x00\x53\x14\xc0\x06\x04\x43\x43\xa0\x00\x41",
            b"\x00\x53\x14\xc0\x0d\x0c\x43\x43" + b"\x40" * 10,
        ],
        ids=["no id", "null id", "negative id", "tag of text", "format true", "too many fields"],
    )
    def test_wrong_fields(self, data: bytes) -> None:
        client = Client()
        client.sender()
        body = (len(data) + 8).to_bytes(4) + b"\x02\0\0\0" + data
        with pytest.raises(RemoteProtocolError) as caught:
            client.receive(body)
        assert caught.value.condition == "amqp:invalid-field"

    def test_settling_what_is_gone(self) -> None:
        client = Client()
        client.sender()
        (delivery,) = client.transfer(0)
        assert isinstance(delivery, Delivery)
        client.send(Detach(0, closed=True))
        client.said()
        delivery.accept()
        delivery.reject()
        assert client.said() == []

    def test_sender_may_settle_first(self) -> None:
        client = Client()
        client.sender()
        client.transfer(0)
        assert client.send(Disposition(role=False, first=0, last=0, settled=True)) == []
        assert client.said() == []


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
