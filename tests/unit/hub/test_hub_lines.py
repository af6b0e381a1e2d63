"""One after the other for each key."""

from __future__ import annotations

import asyncio

import pytest

from muster.hub.lines import Lines


async def test_one_at_a_time_in_the_order_they_came() -> None:
    lines: Lines[str] = Lines()
    done: list[int] = []

    async def work(number: int) -> None:
        async with lines.turn("a"):
            before = len(done)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(done) == before
            done.append(number)

    await asyncio.gather(*(work(number) for number in range(5)))
    assert done == [0, 1, 2, 3, 4]
    assert len(lines) == 0


async def test_other_lines_go_on() -> None:
    lines: Lines[str] = Lines()
    async with lines.turn("a"), lines.turn("b"):
        assert len(lines) == 2
    assert len(lines) == 0


async def test_a_failure_ends_the_turn() -> None:
    lines: Lines[str] = Lines()
    with pytest.raises(ValueError, match="mine"):
        async with lines.turn("a"):
            raise ValueError("mine")
    async with lines.turn("a"):
        assert len(lines) == 1


@pytest.mark.parametrize("given_up", [0, 1, 2])
@pytest.mark.parametrize("ended_first", [False, True])
async def test_who_gives_up_holds_nobody_up(given_up: int, *, ended_first: bool) -> None:
    """Also when the turn came in the very moment of giving up."""
    lines: Lines[str] = Lines()
    done: list[int] = []

    async def work(number: int) -> None:
        async with lines.turn("a"):
            done.append(number)

    first = lines.turn("a")
    await first.__aenter__()
    tasks = [asyncio.ensure_future(work(number)) for number in range(3)]
    await asyncio.sleep(0)
    if ended_first:
        await first.__aexit__()
    tasks[given_up].cancel()
    if not ended_first:
        await first.__aexit__()
    await asyncio.wait(tasks, timeout=30)
    assert done == [number for number in range(3) if number != given_up]
    assert len(lines) == 0
