"""Requests in line, and upkeep that is repeated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from muster.clock import SystemClock
from muster.errors import UnavailableError
from muster.model.pacing import Pace
from muster.net.paced_line import PacedLine
from muster.net.tasks import repeat

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 30


class Desk:
    """Serves numbers; `bad` ones cannot be served, and a `gate` can be closed."""

    def __init__(self) -> None:
        self.served: list[int] = []
        self.turns = 0
        self.failures = 0
        self.over = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.line: PacedLine[int] = PacedLine(
            Pace(rate=1e6, burst=1),
            SystemClock(),
            serve=self.serve,
            served=self.turn,
            failed=self.fail,
            over=lambda: self.over,
        )

    async def serve(self, number: int) -> None:
        await self.gate.wait()
        if number < 0:
            raise ValueError(number)
        self.served.append(number)

    def turn(self) -> None:
        self.turns += 1

    def fail(self) -> None:
        self.failures += 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0)


async def test_one_after_the_other() -> None:
    desk = Desk()
    desk.gate.clear()
    for number in range(5):
        desk.line.add(number, 10)
    await until(lambda: len(desk.line) == 4)
    assert desk.line.size == 40
    desk.gate.set()
    await until(lambda: desk.turns == 5)
    assert desk.served == [0, 1, 2, 3, 4]
    assert (len(desk.line), desk.line.size) == (0, 0)
    desk.line.add(5)
    await until(lambda: desk.served[-1] == 5)


async def test_a_failure_ends_the_line() -> None:
    desk = Desk()
    for number in (1, -1, 2):
        desk.line.add(number, 1)
    await until(lambda: bool(desk.failures))
    await until(lambda: not len(desk.line))
    assert (desk.served, desk.line.size) == ([1], 0)


@pytest.mark.parametrize("how", ["over", "clear"])
async def test_nobody_is_served_who_is_gone(how: str) -> None:
    desk = Desk()
    desk.gate.clear()
    for number in range(3):
        desk.line.add(number, 1)
    await until(lambda: len(desk.line) == 2)
    if how == "over":
        desk.over = True
    else:
        desk.line.clear()
    desk.gate.set()
    await until(lambda: desk.turns == 1 and not len(desk.line))
    assert (desk.served, desk.line.size) == ([0], 0)


async def test_upkeep_goes_on_whatever_it_fails_of() -> None:
    failures: list[Any] = [UnavailableError("away"), ValueError("mistake")]
    done = asyncio.Event()

    async def work() -> None:
        if failures:
            raise failures.pop()
        done.set()

    task = asyncio.ensure_future(repeat(0.0, work, "test"))
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
