"""The bus of a single process."""

from __future__ import annotations

import asyncio

from muster.bus.inprocess import InProcessBus


def test_messages_reach_the_subscribers_of_their_subject_in_order() -> None:
    bus = InProcessBus()
    seen: list[tuple[str, bytes]] = []
    bus.subscribe("a", lambda message: seen.append(("first", message)))
    bus.subscribe("a", lambda message: seen.append(("second", message)))
    bus.subscribe("b", lambda message: seen.append(("other", message)))
    bus.publish("a", b"1")
    bus.publish("nobody", b"2")
    bus.publish("a", b"3")
    assert seen == [("first", b"1"), ("second", b"1"), ("first", b"3"), ("second", b"3")]


def test_an_ended_subscription_hears_nothing_and_ends_once() -> None:
    bus = InProcessBus()
    seen: list[bytes] = []
    end = bus.subscribe("a", seen.append)
    keep = bus.subscribe("a", seen.append)
    end()
    end()
    bus.publish("a", b"1")
    assert seen == [b"1"]
    keep()
    bus.publish("a", b"2")
    assert seen == [b"1"]


def test_a_failing_subscriber_hurts_nobody() -> None:
    bus = InProcessBus()
    seen: list[bytes] = []

    def fail(_message: bytes) -> None:
        raise RuntimeError("no")

    bus.subscribe("a", fail)
    bus.subscribe("a", seen.append)
    bus.publish("a", b"1")
    assert seen == [b"1"]


def test_subscribers_may_come_and_go_while_a_message_is_delivered() -> None:
    bus = InProcessBus()
    seen: list[bytes] = []

    def once(_message: bytes) -> None:
        end()
        bus.subscribe("a", seen.append)

    end = bus.subscribe("a", once)
    bus.publish("a", b"1")
    bus.publish("a", b"2")
    assert seen == [b"2"]


async def test_the_first_answer_counts_and_the_others_are_cancelled() -> None:
    bus = InProcessBus()
    never = asyncio.Event()
    cancelled: list[bytes] = []

    async def decline(_message: bytes) -> None:
        return None

    async def wait(message: bytes) -> bytes:
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.append(message)
            raise
        return b"too late"

    async def answer(message: bytes) -> bytes:
        await asyncio.sleep(0)
        return message + b"!"

    for responder in (decline, wait, answer):
        bus.respond("ask", responder)
    assert await bus.request("ask", b"who", 10) == b"who!"
    await asyncio.sleep(0)
    assert cancelled == [b"who"]


async def test_nobody_answers() -> None:
    bus = InProcessBus()

    async def fail(message: bytes) -> bytes:
        raise ValueError(message)

    async def decline(_message: bytes) -> None:
        return None

    async def wait(_message: bytes) -> bytes:
        return await asyncio.Event().wait() and b""

    assert await bus.request("ask", b"", 10) is None
    ends = [bus.respond("ask", fail), bus.respond("ask", decline)]
    assert await bus.request("ask", b"", 10) is None
    ends.append(bus.respond("ask", wait))
    assert await bus.request("ask", b"", 0.01) is None
    for end in ends:
        end()
        end()

    async def answer(_message: bytes) -> bytes:
        return b"only me"

    bus.respond("ask", answer)
    assert await bus.request("ask", b"", 10) == b"only me"
