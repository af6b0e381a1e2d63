"""Sessions, links and credit against a plain model of what both ends know."""

from __future__ import annotations

from collections import deque
from typing import Any

from amqp_peers import Client, encoded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from muster.wire.amqp.deliveries import Delivery, Sent
from muster.wire.amqp.events import CreditChanged, LinkAttached, LinkDetached, OutcomeReceived
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Detach,
    Disposition,
    Error,
    Flow,
    Rejected,
    Released,
    Source,
    Target,
    Transfer,
)

STATES = [Accepted(), Released(), Rejected(Error("amqp:not-found"))]
WINDOW = 12
HANDLES = 3


class ModelLink:
    """What a client knows of one of its links."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.credit = 0
        self.count = 0
        # Of a link to send over: tags of what is not settled, and the deliveries the owner has.
        self.unsettled: dict[int, bytes] = {}
        self.deliveries: deque[Delivery] = deque()
        # Of a link to receive over: what the owner sent and the client has not got yet, whole.
        self.expected: deque[Sent] = deque()
        self.payloads: deque[bytes] = deque()
        self.parts = b""
        self.begun = False


class Conversation(RuleBasedStateMachine):
    """One session; the rules are what either end may do at any time."""

    @initialize(frame_size=st.sampled_from([512, 700, 65_536]))
    def begin(self, frame_size: int) -> None:
        self.client = Client(max_frame_size=frame_size, incoming_window=WINDOW)
        self.frame_size = frame_size
        self.links: dict[int, ModelLink] = {}
        self.outgoing_window = WINDOW
        self.next_outgoing_id = 0
        self.next_delivery_id = 0
        self.received = 0
        self.incoming_window = 1_000
        self.out: dict[int, tuple[ModelLink, Sent]] = {}
        self.dispositions: dict[int, Any] = {}

    # What the client says and hears.

    def say(self, data: bytes) -> list[Any]:
        events = self.client.receive(data)
        self.hear()
        return events

    def hear(self) -> None:
        for _, said, payload in self.client.frames():
            match said:
                case Flow():
                    self.outgoing_window = (
                        said.next_incoming_id + said.incoming_window - self.next_outgoing_id
                    )
                    if said.handle is not None and said.handle in self.links:
                        model = self.links[said.handle]
                        if isinstance(model.link, ReceivingLink):
                            # What the client has sent since is used already.
                            model.credit = said.delivery_count + said.link_credit - model.count
                case Transfer():
                    self.take(said, payload)
                case Disposition():
                    self.settled(said)
                case _:
                    assert isinstance(said, Attach | Detach)

    def take(self, said: Transfer, payload: bytes) -> None:
        assert self.incoming_window > 0
        assert len(payload) < self.frame_size
        self.incoming_window -= 1
        self.received += 1
        model = self.links[said.handle]
        if not model.begun:
            assert model.credit > 0
            model.credit -= 1
            model.count += 1
        model.begun = said.more
        model.parts += payload
        if said.more:
            return
        sent = model.expected.popleft()
        assert model.parts == model.payloads.popleft()
        assert said.delivery_tag == sent.tag
        model.parts = b""
        if not said.settled:
            assert said.delivery_id is not None
            self.out[said.delivery_id] = (model, sent)

    def settled(self, said: Disposition) -> None:
        assert said.role
        assert said.settled
        assert said.last is not None
        for number in range(said.first, said.last + 1):
            self.dispositions[number] = said.state

    def link(self, choice: int, kind: type) -> ModelLink | None:
        found = [model for model in self.links.values() if isinstance(model.link, kind)]
        return found[choice % len(found)] if found else None

    choices = st.integers(0, 50)

    # Attaching and detaching.

    @precondition(lambda self: len(self.links) < HANDLES)
    @rule(role=st.booleans(), accepted=st.booleans(), credit=st.integers(0, 6))
    def attach(self, role: bool, accepted: bool, credit: int) -> None:  # noqa: FBT001
        handle = next(at for at in range(HANDLES) if at not in self.links)
        attach = Attach("l", handle, role=role, source=Source("s"), target=Target("t"))
        (event,) = self.say(encoded(attach))
        assert isinstance(event, LinkAttached)
        link = event.link
        if not accepted:
            link.detach(Error("amqp:not-found"))
            self.hear()
            assert self.say(encoded(Detach(handle, closed=True))) == []
            return
        self.links[handle] = ModelLink(link)
        if isinstance(link, ReceivingLink):
            link.accept(credit)
        else:
            link.accept()
        self.hear()

    @rule(choice=choices, by_client=st.booleans())
    def detach(self, choice: int, by_client: bool) -> None:  # noqa: FBT001
        model = self.link(choice, object)
        if model is None:
            return
        handle = model.link.handle
        if by_client:
            del self.links[handle]
            (event,) = self.say(encoded(Detach(handle, closed=True)))
            assert isinstance(event, LinkDetached)
            assert event.link is model.link
        else:
            model.link.detach()
            self.hear()
            del self.links[handle]
            assert self.say(encoded(Detach(handle, closed=True))) == []
        self.out = {at: pair for at, pair in self.out.items() if pair[0] is not model}

    # The client sends.

    @rule(
        choice=choices,
        payload=st.binary(max_size=30),
        parts=st.integers(1, 3),
        settled=st.booleans(),
    )
    def send(self, choice: int, payload: bytes, parts: int, settled: bool) -> None:  # noqa: FBT001
        model = self.link(choice, ReceivingLink)
        if model is None or model.credit < 1 or self.outgoing_window < parts:
            return
        model.credit -= 1
        model.count += 1
        number = self.next_delivery_id
        self.next_delivery_id += 1
        tag = b"%d" % number
        pieces = [payload[at::parts] for at in range(parts)]
        events: list[Any] = []
        for at, piece in enumerate(pieces):
            self.outgoing_window -= 1
            self.next_outgoing_id += 1
            transfer = Transfer(
                model.link.handle, number, tag, settled=settled, more=at + 1 < parts
            )
            assert events == []
            events = self.say(encoded(transfer, piece))
        (delivery,) = events
        assert isinstance(delivery, Delivery)
        assert delivery.link is model.link
        assert (delivery.tag, delivery.payload) == (tag, b"".join(pieces))
        assert delivery.settled == settled
        if not settled:
            model.deliveries.append(delivery)

    @rule(choice=choices, state=st.sampled_from(STATES), count=st.integers(1, 5))
    def settle(self, choice: int, state: Any, count: int) -> None:
        model = self.link(choice, ReceivingLink)
        if model is None:
            return
        settled = [model.deliveries.popleft() for _ in range(min(count, len(model.deliveries)))]
        for delivery in settled:
            delivery.settle(state)
        self.hear()
        for delivery in settled:
            assert self.dispositions.pop(delivery.delivery_id) == state
        assert not self.dispositions

    @rule(choice=choices, credit=st.integers(0, 6))
    def allow(self, choice: int, credit: int) -> None:
        model = self.link(choice, ReceivingLink)
        if model is not None:
            model.link.set_credit(credit)
            self.hear()

    # The owner sends.

    @rule(
        choice=choices, size=st.sampled_from([0, 30, 400, 500, 900, 3_000]), settled=st.booleans()
    )
    def deliver(self, choice: int, size: int, settled: bool) -> None:  # noqa: FBT001
        model = self.link(choice, SendingLink)
        if model is None:
            return
        payload = bytes([size % 256]) * size
        model.payloads.append(payload)
        model.expected.append(model.link.send(payload, settled=settled))
        self.hear()

    @rule(
        choice=choices,
        credit=st.integers(0, 5),
        window=st.sampled_from([0, 0, 1, 2, 5, 9]),
        drain=st.booleans(),
    )
    def grant(self, choice: int, credit: int, window: int, drain: bool) -> None:  # noqa: FBT001
        model = self.link(choice, SendingLink)
        if model is None:
            return
        model.credit = credit
        self.incoming_window = window
        flow = Flow(
            window, 0, 0, self.received, model.link.handle, model.count, credit, drain=drain
        )
        events = self.say(encoded(flow))
        changed = [event for event in events if isinstance(event, CreditChanged)]
        assert len(changed) == len(events)
        first, *others = (event.link for event in changed)
        assert first is model.link
        # The window is the session's: other links may go on, too, and are told when they can.
        assert model.link not in others
        assert all(link.queued == 0 for link in others)
        assert model.link.drain == drain

    @rule(choice=choices, state=st.sampled_from(STATES), settled=st.booleans())
    def dispose(self, choice: int, state: Any, settled: bool) -> None:  # noqa: FBT001
        if not self.out:
            return
        number = list(self.out)[choice % len(self.out)]
        _, sent = self.out.pop(number)
        said = Disposition(role=True, first=number, settled=settled, state=state)
        (event,) = self.say(encoded(said))
        assert isinstance(event, OutcomeReceived)
        assert event.sent is sent
        assert (event.state, event.settled) == (state, settled)
        if not settled:
            sent.settle()
            (answer,) = self.client.said()
            assert (answer.first, answer.last, answer.state) == (number, number, state)

    @invariant()
    def nothing_waits_without_a_reason(self) -> None:
        for model in getattr(self, "links", {}).values():
            link = model.link
            if isinstance(link, SendingLink):
                assert link.queued == len(model.expected)
                if link.queued:
                    assert self.incoming_window == 0 or (model.credit == 0 and not model.begun)
                assert link.credit == max(model.credit - link.queued + model.begun, 0)
            else:
                # The owner's deliveries and the client's credit never exceed what was granted.
                assert model.credit >= 0

    @invariant()
    def nothing_is_held_for_nothing(self) -> None:
        if hasattr(self, "client"):
            assert self.client.connection.buffered == 0
            assert self.client.connection.opened


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
