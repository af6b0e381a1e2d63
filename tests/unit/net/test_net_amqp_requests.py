"""Requests over a link, which stand in line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from muster.clock import SystemClock
from muster.model.pacing import Pace
from muster.net.amqp_requests import RequestLine
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.performatives import Accepted, Disposition, Flow, Rejected
from unit.wire.amqp.amqp_peers import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.wire.amqp.events import Event
    from muster.wire.amqp.messages import Message

PATIENCE_S = 30
MOST = 4


class Desk:
    """Serves what a client asks over a link of its own; a `gate` can be closed."""

    def __init__(self) -> None:
        self.client = Client()
        self.gate = asyncio.Event()
        self.gate.set()
        self.served: list[bytes] = []
        self.failures = 0
        self.broken = False
        self.link = self.client.sender(MOST)
        self.line = RequestLine(
            self.link,
            Pace(rate=1e6, burst=1),
            SystemClock(),
            most=MOST,
            serve=self.serve,
            failed=self.fail,
        )

    async def serve(self, delivery: Delivery, request: Message) -> None:
        await self.gate.wait()
        if self.broken:
            raise ValueError("broken")
        self.served.append(request.data)
        delivery.accept()

    def fail(self) -> None:
        self.failures += 1

    def ask(self, number: int, *, settled: bool = False, payload: bytes | None = None) -> None:
        more = {} if payload is None else {"payload": payload}
        events: list[Event] = self.client.transfer(number, settled=settled, **more)  # type: ignore[arg-type]
        self.line.received([cast("Delivery", each) for each in events])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0)


async def test_requests_are_served_and_settled_in_order() -> None:
    desk = Desk()
    for number in range(3):
        desk.ask(number)
    await until(lambda: len(desk.served) == 3)
    said = [each for each in desk.client.said() if isinstance(each, Disposition)]
    assert [each.state for each in said] == [Accepted()] * len(said)
    assert (said[0].first, said[-1].last or said[-1].first) == (0, 2)


async def test_what_is_no_message_is_rejected_alone() -> None:
    desk = Desk()
    desk.ask(0, payload=b"\0")
    desk.ask(1)
    await until(lambda: len(desk.served) == 1)
    states = {
        each.first: each.state for each in desk.client.said() if isinstance(each, Disposition)
    }
    assert isinstance(states[0], Rejected)
    assert states[1] == Accepted()


async def test_a_full_line_takes_no_more_until_half_of_it_is_served() -> None:
    desk = Desk()
    desk.gate.clear()
    # Settled ones, which would earn new credit at once.
    for number in range(MOST):
        desk.ask(number, settled=True)
    granted = [each for each in desk.client.said() if isinstance(each, Flow)]
    desk.gate.set()
    await until(lambda: len(desk.served) == MOST)
    later = [each for each in desk.client.said() if isinstance(each, Flow)]
    # Up to here the client could have sent as many as may wait, and then as many more.
    assert all((each.delivery_count or 0) + (each.link_credit or 0) < 2 * MOST for each in granted)
    assert (later[-1].delivery_count, later[-1].link_credit) == (MOST, MOST)


async def test_a_mistake_ends_the_line() -> None:
    desk = Desk()
    desk.broken = True
    desk.ask(0)
    desk.ask(1)
    await until(lambda: desk.failures == 1)
    assert desk.served == []


async def test_nobody_is_served_when_the_line_is_cleared() -> None:
    desk = Desk()
    desk.gate.clear()
    for number in range(3):
        desk.ask(number)
    await asyncio.sleep(0)
    desk.line.clear()
    desk.gate.set()
    await until(lambda: len(desk.served) == 1)
    desk.ask(3)
    await until(lambda: len(desk.served) == 2)
