"""What one turn of the loop asks for reaches the thread together, and whole."""

from __future__ import annotations

import asyncio
import threading

from muster.store.worker import Turn, Worker


async def test_one_turn_is_one_batch() -> None:
    batches: list[list[int]] = []
    held = threading.Event()

    def work(batch: list[int]) -> None:
        batches.append(batch)
        held.wait(10)

    worker: Worker[int] = Worker("test", 100, work)
    turn = Turn(asyncio.get_running_loop(), worker.put)
    worker.put(0)
    for number in range(1, 6):
        turn.put(number)
    # Nothing is handed over before the turn ends, everything after.
    assert worker._queue.qsize() <= 1
    await asyncio.sleep(0)
    held.set()
    turn.put(6)
    turn.hand_over()
    worker.close()
    await asyncio.to_thread(worker.join)
    assert [number for batch in batches for number in batch] == list(range(7))


async def test_what_is_left_can_be_handed_over_at_once() -> None:
    done: list[int] = []
    worker: Worker[int] = Worker("test", 100, done.extend)
    turn = Turn(asyncio.get_running_loop(), worker.put)
    turn.put(1)
    turn.put(2)
    turn.hand_over()
    worker.close()
    await asyncio.to_thread(worker.join)
    assert done == [1, 2]


async def test_in_a_busy_time_several_turns_are_one_batch() -> None:
    batches: list[list[int]] = []
    began, held = threading.Event(), threading.Event()

    def work(batch: list[int]) -> None:
        batches.append(batch)
        began.set()
        held.wait(10)

    worker: Worker[int] = Worker("test", 100, work)
    turn = Turn(asyncio.get_running_loop(), worker.put, pause_s=30.0)
    turn.put(0)
    await asyncio.to_thread(began.wait)
    # The first was handed over at once; what follows waits for the pause to end.
    for number in range(1, 4):
        turn.put(number)
        await asyncio.sleep(0)
        assert not worker._queue.qsize()
    turn.hand_over()
    worker.close()
    held.set()
    await asyncio.to_thread(worker.join)
    assert batches == [[0], [1, 2, 3]]


async def test_what_waits_for_the_pause_comes_by_itself() -> None:
    done: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def work(batch: list[int]) -> None:
        for number in batch:
            loop.call_soon_threadsafe(done.put_nowait, number)

    worker: Worker[int] = Worker("test", 100, work)
    turn = Turn(loop, worker.put, pause_s=0.001)
    for number in range(3):
        turn.put(number)
        assert await done.get() == number
    turn.hand_over()
    worker.close()
    await asyncio.to_thread(worker.join)
