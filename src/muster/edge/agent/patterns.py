"""Regular expressions of people, searched for by a process of their own.

A few characters can keep `re` busy for years, and while it searches no other thread of its process
runs: here that would stop the whole device. The process has bounds of time and memory, and what
oversteps them is a bad pattern.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

import structlog

from muster.edge.agent import pattern_process

Search: TypeAlias = Callable[[Sequence[str]], Awaitable[list[bool]]]
"""Tells of each text whether the pattern is found in it. Raises `PatternError`."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]*").fullmatch
_ANSWER_S: Final = 60.0
"""Where the process is not stopped by its own bounds, or does not get to run."""
_LONGEST_ANSWER: Final = 4 << 20
_TOO_SLOW: Final = (
    f"takes more than {pattern_process.CPU_S} s of processor time to search for, or too much memory"
)

_log = structlog.get_logger(__name__)


class PatternError(ValueError):
    """A pattern is none, or takes too long. The message is for whoever sent it: what it is."""


@asynccontextmanager
async def searching(pattern: str, *, fold: bool = False) -> AsyncIterator[Search]:
    """Search for a pattern.

    Args:
        pattern: in Python's syntax.
        fold: letters are the same in any case.

    Raises:
        PatternError: it is none.
    """
    if _PLAIN(pattern):
        yield lambda texts: _plain(pattern, texts, fold=fold)
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", pattern_process.__file__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_LONGEST_ANSWER,
    )
    try:
        if problem := await _ask(process, [pattern, fold]):
            raise PatternError(f"is not a regular expression: {problem}")

        async def search(texts: Sequence[str]) -> list[bool]:
            return [each == "1" for each in await _ask(process, list(texts))]

        yield search
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _plain(pattern: str, texts: Sequence[str], *, fold: bool) -> list[bool]:
    if fold:
        return [pattern.lower() in text.lower() for text in texts]
    return [pattern in text for text in texts]


async def _ask(process: asyncio.subprocess.Process, question: list[object]) -> str:
    assert process.stdin is not None  # noqa: S101 - for the type checker
    assert process.stdout is not None  # noqa: S101 - likewise
    try:
        async with asyncio.timeout(_ANSWER_S):
            process.stdin.write(json.dumps(question).encode() + b"\n")
            await process.stdin.drain()
            answer = await process.stdout.readline()
    except (TimeoutError, ConnectionError):
        answer = b""
    if not answer.endswith(b"\n"):
        _log.warning("a pattern takes too long")
        raise PatternError(_TOO_SLOW)
    return answer[:-1].decode()
