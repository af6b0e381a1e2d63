"""Regular expressions of people: found by another process, which a bad one does not outlive."""

from __future__ import annotations

import asyncio

import pytest

from muster.edge.agent.patterns import PatternError, searching


@pytest.mark.parametrize(
    ("pattern", "fold", "found"),
    [
        ("", False, [True, True, True]),
        ("one", False, [True, False, False]),
        ("ONE", False, [False, False, False]),
        ("ONE", True, [True, False, False]),
        ("^t", False, [False, True, False]),
        ("^T.*é$", True, [False, True, False]),
        ("\\n", False, [False, False, True]),
    ],
)
async def test_patterns_are_found(pattern: str, *, fold: bool, found: list[bool]) -> None:
    async with searching(pattern, fold=fold) as search:
        assert await search(["one", "two é", "a\nb"]) == found
        assert await search([]) == []
        assert await search(["one", "two é", "a\nb"] * 20_000) == found * 20_000


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(" * 500 + ")" * 500, "[b-a]"])
async def test_what_is_no_pattern_is_said(pattern: str) -> None:
    with pytest.raises(PatternError, match="is not a regular expression"):
        async with searching(pattern):
            pass


async def test_a_pattern_without_end_holds_up_nobody_and_is_ended() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    working = asyncio.ensure_future(work())
    with pytest.raises(PatternError, match="takes more than"):
        async with searching("(a+)+$") as search:
            await search(["a" * 64 + "b"])
    working.cancel()
    # Had the search held the interpreter, there would have been one turn at most.
    assert turns > 10


async def test_a_search_that_is_given_up_leaves_no_process() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), searching("(a+)+$") as search:
            await search(["a" * 64 + "b"])
