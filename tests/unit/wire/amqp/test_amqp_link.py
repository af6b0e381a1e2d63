"""Links and sessions: how they come and go (2.5, 2.6)."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peers import Client, encoded

from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.events import LinkAttached, LinkDetached
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
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
