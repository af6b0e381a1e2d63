from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from muster.net.tasks import spawn
from unit.net.loopback import until


async def test_kept_alive_without_a_reference() -> None:
    done: list[int] = []

    async def work() -> None:
        await asyncio.get_running_loop().create_future()

    async def finish() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    spawn(finish(), "finish")
    waiting = spawn(work(), "waits for ever")
    gc.collect()
    await until(lambda: bool(done))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_failure_is_logged_once(log: list[Any]) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    spawn(fail(), "doomed")
    await until(lambda: bool(log))
    await asyncio.sleep(0)
    assert [(event["event"], event["task"]) for event in log] == [
        ("background task failed", "doomed")
    ]


async def test_result_can_be_awaited() -> None:
    async def answer() -> int:
        return 42

    assert await spawn(answer(), "answer") == 42
