"""Links over which the client sends: credit, parts, settlement."""

from __future__ import annotations

import pytest
from amqp_peers import PAYLOAD, Client, encoded

from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.events import LinkDetached
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Detach,
    Disposition,
    Error,
    Flow,
    Modified,
    Rejected,
    Released,
    Transfer,
)

NOT_FOUND = Error("amqp:not-found", "There is no such address.")


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
