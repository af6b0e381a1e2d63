"""Store and forward of the edge hub (edge.md 6.3)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.clock import ManualClock
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.queue import Entry, Key
from muster.edge.hub.queues import Queues
from muster.errors import UnavailableError
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UP = Key("upstream", "d/m", 5)
SIZE = Entry(UP, 0, "", b"x" * 136).size


@contextlib.asynccontextmanager
async def opened(
    directory: Path, clock: ManualClock, max_bytes: int = 1 << 30, ttl_s: int | None = 7200
) -> AsyncIterator[Queues]:
    engine = await SqliteEngine.open(directory / FILE_NAME, PROFILE)
    queues = await Queues.open(engine, clock, max_bytes=max_bytes, ttl_s=ttl_s)
    yield queues
    await queues.flush()
    await engine.close()


def message(text: str, key: Key = UP, ttl_s: int = 0) -> Entry:
    return Entry(key, ttl_s, f"n={text}", text.encode())


async def drain(queues: Queues, key: Key = UP) -> list[str]:
    outlet = queues.outlet(key.sink, key.sender)
    found = []
    while batch := await outlet.take():
        found += [each.body.decode() for each in batch]
        outlet.done(batch)
    return found


async def test_what_was_accepted_comes_out_in_order_also_after_a_restart(tmp_path):
    clock = ManualClock()
    texts = [str(n) for n in range(2000)]
    async with opened(tmp_path, clock) as queues:
        for start in range(0, 2000, 100):
            await queues.put([message(text) for text in texts[start : start + 100]])
        assert queues.outlet(UP.sink, UP.sender).count == 2000
    async with opened(tmp_path, clock) as queues:
        outlet = queues.outlet(UP.sink, UP.sender)
        assert outlet.count == 2000
        assert await drain(queues) == texts
        assert (outlet.count, queues.size) == (0, 0)
    async with opened(tmp_path, clock) as queues:
        assert await drain(queues) == []


async def test_what_is_taken_and_not_done_comes_again(tmp_path):
    async with opened(tmp_path, ManualClock()) as queues:
        await queues.put([message(str(n)) for n in range(10)])
        outlet = queues.outlet(UP.sink, UP.sender)
        taken = await outlet.take()
        assert len(taken) == 10
        assert await outlet.take() == []
        outlet.done(taken[:3] + taken[5:6])
        await outlet.rewind()
        assert await drain(queues) == ["3", "4", "6", "7", "8", "9"]


@pytest.mark.parametrize("waiting", [100, 256, 300, 600])
@pytest.mark.parametrize("done", [0, 10])
async def test_all_that_has_come_while_the_sink_was_away_goes_in_order(
    tmp_path, waiting: int, done: int
):
    """What is read from the disk then may be in memory, too."""
    async with opened(tmp_path, ManualClock()) as queues:
        outlet = queues.outlet(UP.sink, UP.sender)
        texts = [str(n) for n in range(waiting)]
        await queues.put([message(text) for text in texts[:10]])
        outlet.done((await outlet.take())[:done])
        # The sink is lost.
        for start in range(10, waiting, 7):
            await queues.put([message(text) for text in texts[start : start + 7]])
        await outlet.rewind()
        assert await drain(queues) == texts[done:]
        assert (outlet.count, queues.size) == (0, 0)


async def test_urgent_messages_come_first(tmp_path):
    async with opened(tmp_path, ManualClock()) as queues:
        for priority in (5, 9, 0, 5):
            await queues.put([message(f"p{priority}", Key("upstream", "d/m", priority))])
        assert await drain(queues) == ["p0", "p5", "p5", "p9"]


async def test_senders_do_not_wait_for_each_other(tmp_path):
    async with opened(tmp_path, ManualClock()) as queues:
        other = Key("upstream", "d/other", 5)
        await queues.put([message("a"), message("b", other), message("c")])
        assert await drain(queues, other) == ["b"]
        assert await drain(queues) == ["a", "c"]


async def test_time_to_live_counts_wall_time_over_restarts(tmp_path):
    clock = ManualClock()
    async with opened(tmp_path, clock, ttl_s=100) as queues:
        await queues.put([message("short", ttl_s=10), message("usual"), message("long", ttl_s=900)])
        clock.advance(9.5)
        assert [each.body for each in await queues.outlet(UP.sink, UP.sender).take()] == [
            b"short",
            b"usual",
            b"long",
        ]
    # The power is off.
    clock.advance(90.5)
    async with opened(tmp_path, clock, ttl_s=100) as queues:
        assert await drain(queues) == ["long"]
        assert queues.dropped.expired == 2
    async with opened(tmp_path, clock, ttl_s=100) as queues:
        assert await drain(queues) == []


async def test_expired_messages_leave_the_disk_without_being_asked_for(tmp_path):
    clock = ManualClock()
    async with opened(tmp_path, clock, ttl_s=100) as queues:
        await queues.put([message(str(n)) for n in range(1500)])
        await queues.put([message("later", ttl_s=1000)])
        await queues.expire()
        assert queues.dropped.expired == 0
        clock.advance(100)
        await queues.expire()
        assert queues.dropped.expired == 1500
        assert queues.outlet(UP.sink, UP.sender).count == 1
    async with opened(tmp_path, clock) as queues:
        assert await drain(queues) == ["later"]


async def test_a_negative_time_to_live_is_for_ever(tmp_path):
    clock = ManualClock()
    async with opened(tmp_path, clock, ttl_s=None) as queues:
        await queues.put([message("old")])
        clock.advance(10**9)
        await queues.expire()
        assert await drain(queues) == ["old"]


class SteppingClock(ManualClock):
    """A clock that somebody can set."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self.set_by = 0.0

    def monotonic(self) -> float:
        return super().monotonic() - self.set_by

    def step(self, seconds: float) -> None:
        self.advance(seconds)
        self.set_by += seconds


async def test_nothing_expires_because_the_clock_was_set(tmp_path):
    clock = SteppingClock(1_000.0)
    async with opened(tmp_path, clock, ttl_s=100) as queues:
        outlet = queues.outlet(UP.sink, UP.sender)
        await queues.put([message("before")])
        clock.advance(50)
        clock.step(1_700_000_000)
        await queues.put([message("after")])
        assert [each.body for each in await outlet.take()] == [b"before", b"after"]
        await queues.expire()
        await outlet.rewind()
        assert [each.body for each in await outlet.take()] == [b"before", b"after"]
        await queues.put([message("later")])
        clock.advance(51)
        await outlet.rewind()
        assert [each.body for each in await outlet.take()] == [b"after", b"later"]
        assert queues.dropped.expired == 1
    # They have the right dates on disk, and the time the power is off counts.
    clock.advance(48)
    async with opened(tmp_path, clock, ttl_s=100) as queues:
        assert await drain(queues) == ["after", "later"]


async def test_full_the_oldest_of_the_least_urgent_are_dropped_and_counted(tmp_path):
    urgent, usual = Key("upstream", "d/m", 0), Key("upstream", "d/m", 9)
    limit = SIZE * 1000
    async with opened(tmp_path, ManualClock(), max_bytes=limit) as queues:
        for n in range(800):
            await queues.put([Entry(usual, 0, "", str(n).encode().ljust(136))])
        for n in range(400):
            await queues.put([Entry(urgent, 0, "", str(n).encode().ljust(136))])
            assert queues.size <= limit
        assert queues.dropped.full == 255
        found = [int(each) for each in await drain(queues, urgent)]
        assert found == [*range(400), *range(255, 800)]


async def test_full_of_urgent_messages_others_are_not_taken(tmp_path):
    urgent, usual = Key("upstream", "d/m", 0), Key("upstream", "d/m", 9)
    async with opened(tmp_path, ManualClock(), max_bytes=SIZE * 10) as queues:
        await queues.put([Entry(urgent, 0, "", b"x" * 136) for _ in range(10)])
        await queues.put([Entry(usual, 0, "", b"x" * 136)])
        assert queues.dropped.full == 1
        assert len(await drain(queues, urgent)) == 10


async def test_a_batch_larger_than_the_limit_keeps_its_end(tmp_path):
    async with opened(tmp_path, ManualClock(), max_bytes=SIZE * 300) as queues:
        await queues.put([Entry(UP, 0, "", str(n).encode().ljust(136)) for n in range(700)])
        kept = [int(each) for each in await drain(queues)]
        assert kept == list(range(700 - len(kept), 700))
        assert len(kept) + queues.dropped.full == 700
        assert kept


async def test_space_is_given_back(tmp_path):
    file = tmp_path / FILE_NAME
    async with opened(tmp_path, ManualClock()) as queues:
        for _ in range(20):
            await queues.put([Entry(UP, 0, "", b"x" * 100_000) for _ in range(10)])
        await drain(queues)
        await queues.flush()
        async with asyncio.timeout(60):
            while file.stat().st_size > 1_000_000:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.05)
    assert file.stat().st_size < 1_000_000


async def test_nothing_is_written_when_nothing_happens(tmp_path):
    async with opened(tmp_path, ManualClock()) as queues:
        await queues.put([message("a")])
        await drain(queues)
        await queues.flush()
        written = queues._engine._commits
        for _ in range(5):
            await queues.expire()
            await queues.flush()
            await queues.outlet(UP.sink, UP.sender).rewind()
            assert await drain(queues) == []
        assert queues._engine._commits == written


async def test_a_disk_that_refuses_accepts_nothing_and_counts_nothing(tmp_path):
    async with opened(tmp_path, ManualClock()) as queues:
        await queues.put([message("before")])
        size = queues.size
        engine = queues._engine
        queues._engine = Refusing(engine)
        with pytest.raises(UnavailableError):
            await queues.put([message("refused"), message("refused", Key("other", "", 1))])
        assert queues.size == size
        queues._engine = engine
        await queues.put([message("after"), message("there", Key("other", "", 1))])
        assert await drain(queues) == ["before", "after"]
    async with opened(tmp_path, ManualClock()) as queues:
        assert await drain(queues, Key("other", "", 1)) == ["there"]


class Refusing:
    def __init__(self, engine):
        self._engine = engine

    async def write(self, *statements):
        raise UnavailableError("no space left")

    async def read(self, query, params):
        return await self._engine.read(query, params)


KEYS = [
    Key("upstream", "a", 0),
    Key("upstream", "a", 9),
    Key("upstream", "b", 9),
    Key("m/i", "", 4),
]
OUTLETS = sorted({(key.sink, key.sender) for key in KEYS})


async def done(outlet, messages):
    outlet.done(messages)


class Machine(RuleBasedStateMachine):
    """Any sequence of accepting, taking, losing the link, time passing and power cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = TemporaryDirectory()
        self.clock = ManualClock()
        self.number = 0
        self.accepted: dict[int, Key] = {}
        self.sizes: dict[int, int] = {}
        self.delivered: set[int] = set()
        self.flying: dict[tuple[str, str], list] = {name: [] for name in OUTLETS}
        self.seen: dict[Key, int] = {}
        self.dropped = 0
        self.engine = None
        self.run(self.open())

    def run(self, coroutine):
        return self.runner.run(coroutine)

    async def open(self):
        self.engine = await SqliteEngine.open(Path(self.directory.name) / FILE_NAME, PROFILE)
        self.queues = await Queues.open(self.engine, self.clock, max_bytes=40_000, ttl_s=100)
        # What was done and not deleted yet is there again, on top of what came after it.
        self.bound = max(40_000, self.queues.size)

    async def close(self):
        # No flush: what is done and not deleted yet comes again.
        await self.engine.close()
        dropped = self.queues.dropped
        self.dropped += dropped.expired + dropped.full

    @rule(
        chosen=st.lists(
            st.tuples(st.sampled_from(KEYS), st.integers(0, 3000), st.sampled_from([0, 0, 30])),
            max_size=30,
        )
    )
    def put(self, chosen):
        entries = []
        for key, size, ttl_s in chosen:
            self.number += 1
            self.accepted[self.number] = key
            entries.append(Entry(key, ttl_s, str(self.number), b"x" * size))
        self.run(self.queues.put(entries))

    @rule(name=st.sampled_from(OUTLETS), part=st.floats(0, 1))
    def take(self, name, part):
        outlet = self.queues.outlet(*name)
        found = self.run(outlet.take())
        for each in found:
            number = int(each.bag)
            key = self.accepted[number]
            assert (key.sink, key.sender) == name
            assert number > self.seen.get(key, 0), "out of order, or twice without a reason"
            self.seen[key] = number
        flying = self.flying[name] + found
        count = round(len(flying) * part)
        self.run(done(outlet, flying[:count]))
        self.delivered.update(int(each.bag) for each in flying[:count])
        self.flying[name] = flying[count:]

    @rule(name=st.sampled_from(OUTLETS))
    def link_lost(self, name):
        self.run(self.queues.outlet(*name).rewind())
        self._again(name)

    def _again(self, name):
        self.flying[name] = []
        for key in KEYS:
            if (key.sink, key.sender) == name:
                self.seen.pop(key, None)

    @rule(seconds=st.sampled_from([1, 20, 60]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def expire(self):
        self.run(self.queues.expire())

    @precondition(lambda self: self.number)
    @rule()
    def power_cut(self):
        self.run(self.close())
        self.run(self.open())
        for name in OUTLETS:
            self._again(name)

    @invariant()
    def within_bounds(self):
        assert 0 <= self.queues.size <= self.bound
        assert self.queues.size == sum(
            size for queue in self.queues._queues.values() for _, size in queue.blocks.values()
        )

    def teardown(self):
        try:
            self.end()
        finally:
            self.run(self.engine.close())
            self.runner.close()
            self.directory.cleanup()

    def end(self):
        for name in OUTLETS:
            self.link_lost(name)
            while self.run(self.queues.outlet(*name).take()):
                pass
            self.link_lost(name)
            while found := self.run(self.queues.outlet(*name).take()):
                self.run(done(self.queues.outlet(*name), found))
                self.delivered.update(int(each.bag) for each in found)
        assert self.queues.size == 0
        assert not self.queues.waiting()
        self.run(self.queues.flush())
        self.run(self.close())
        missing = self.accepted.keys() - self.delivered
        assert len(missing) <= self.dropped, "lost without being counted"


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, phases=[Phase.reuse, Phase.generate]
)
