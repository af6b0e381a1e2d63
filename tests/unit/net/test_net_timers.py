from __future__ import annotations

import asyncio
from typing import Any

from muster.net.timers import NO_SLOT, TimerWheel, running_wheel
from unit.net.loopback import until


class Sleeper:
    """Notes when it is woken, and says when next from a list."""

    def __init__(self, *again: float) -> None:
        self.timer_slot = NO_SLOT
        self.again = list(again)
        self.woken: list[float] = []

    def timer_expired(self, now: float) -> float:
        self.woken.append(now)
        return now + self.again.pop(0) if self.again else 0.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_never_early_and_little_late() -> None:
    wheel = TimerWheel(0.02)
    sleepers = [(Sleeper(), now() + delay) for delay in (0.0, 0.01, 0.05, 0.1)]
    for sleeper, deadline in sleepers:
        wheel.start(sleeper, deadline)
    assert len(wheel) == 4
    await until(lambda: len(wheel) == 0)
    for sleeper, deadline in sleepers:
        assert len(sleeper.woken) == 1
        assert deadline <= sleeper.woken[0] < deadline + 0.5


async def test_stop_and_move() -> None:
    wheel = TimerWheel(0.01)
    stopped, moved = Sleeper(), Sleeper()
    wheel.start(stopped, now() + 0.03)
    wheel.start(moved, now() + 0.03)
    wheel.start(moved, now() + 0.15)
    wheel.stop(stopped)
    wheel.stop(stopped)
    await asyncio.sleep(0.08)
    assert stopped.woken == moved.woken == []
    await until(lambda: bool(moved.woken))
    assert stopped.woken == []
    assert len(moved.woken) == 1


async def test_again_and_again() -> None:
    wheel = TimerWheel(0.01)
    sleeper = Sleeper(0.02, 0.02)
    wheel.start(sleeper, now())
    await until(lambda: len(sleeper.woken) == 3)
    await asyncio.sleep(0.05)
    assert len(sleeper.woken) == 3
    assert sleeper.timer_slot == NO_SLOT


async def test_in_the_past_even_after_a_long_hold_up() -> None:
    wheel = TimerWheel(0.001)
    late = [Sleeper() for _ in range(3)]
    for number, sleeper in enumerate(late):
        wheel.start(sleeper, now() - 5 + number / 100)
    other = Sleeper()
    wheel.start(other, now() + 0.05)
    await until(lambda: all(sleeper.woken for sleeper in late))
    assert not other.woken
    # A loop that is held up finds many empty slots behind it.
    asyncio.get_running_loop().call_soon(lambda: __import__("time").sleep(0.1))
    await until(lambda: bool(other.woken))


async def test_a_sleeper_may_stop_its_neighbour() -> None:
    wheel = TimerWheel(0.01)
    deadline = now() + 0.02

    class Rude(Sleeper):
        other: Sleeper

        def timer_expired(self, now: float) -> float:
            wheel.stop(self.other)
            return super().timer_expired(now)

    one, two = Rude(), Rude()
    one.other, two.other = two, one
    wheel.start(one, deadline)
    wheel.start(two, deadline)
    await until(lambda: len(wheel) == 0)
    assert len(one.woken) + len(two.woken) == 1


async def test_failure_is_logged_and_others_are_served(log: list[Any]) -> None:
    class Faulty(Sleeper):
        def timer_expired(self, now: float) -> float:
            raise ZeroDivisionError

    wheel = TimerWheel(0.01)
    faulty, good = Faulty(), Sleeper()
    wheel.start(faulty, now())
    wheel.start(good, now() + 0.03)
    await until(lambda: bool(good.woken))
    assert [event["event"] for event in log] == ["deadline handler failed"]


async def test_one_wheel_per_loop() -> None:
    assert running_wheel() is running_wheel()
