"""The journal: appending and reading, also against a plain list."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from muster.clock import ManualClock
from muster.errors import ConflictError, TooLargeError, UnavailableError
from muster.store import journal_writer
from muster.store.journal import Journal
from unit.store.journal_parts import MANY, PARTITIONS, contents, crashed, opened

# Appending and reading.


async def test_numbers_count_each_partition_from_zero(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        assert await journal.append(0, [b"a", b"b"]) == [0, 1]
        assert await journal.append(1, [b"c"]) == [0]
        both = await asyncio.gather(journal.append(0, [b"d"]), journal.append(0, [b"", b"e"]))
        assert both == [[2], [3, 4]]
        assert journal.bounds(0) == (0, 5)
        assert journal.bounds(2) == (0, 0)
        assert await journal.append(2, []) == []
        assert await contents(journal, 0) == [b"a", b"b", b"d", b"", b"e"]
        assert await contents(journal, 1) == [b"c"]


async def test_an_empty_journal_stays_empty(tmp_path: Path) -> None:
    for _ in range(3):
        async with opened(tmp_path / "deep" / "hub") as journal:
            assert journal.bounds(0) == (0, 0)
            assert await journal.read(0, 0, 10, 10) == []
            assert journal.find_time(0, 0.0) == 0
            assert journal.find_offset(0, 0) == 0


async def test_limits_of_a_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.append(0, [bytes(100)] * 10)
        assert len(await journal.read(0, 0, 3, MANY)) == 3
        assert len(await journal.read(0, 0, 100, 250)) == 2
        # One in any case, or a reader would never get past it.
        assert len(await journal.read(0, 0, 100, 1)) == 1
        assert await journal.read(0, 0, 0, MANY) == []
        assert [each.sequence for each in await journal.read(0, -5, 2, MANY)] == [0, 1]
        assert [each.sequence for each in await journal.read(0, 8, 100, MANY)] == [8, 9]
        assert await journal.read(0, 100, 100, MANY) == []


async def test_a_partition_that_is_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for partition in (-1, PARTITIONS):
            with pytest.raises(ValueError, match="no partition"):
                journal.append(partition, [b"a"])
            with pytest.raises(ValueError, match="no partition"):
                await journal.read(partition, 0, 1, 1)


async def test_records_know_when_they_came(tmp_path: Path) -> None:
    clock = ManualClock()
    begin = clock.time()
    async with opened(tmp_path, clock=clock, segment_bytes=500) as journal:
        for _ in range(100):
            await journal.append(0, [bytes(30)] * 2)
            clock.advance(10)
        records = await journal.read(0, 0, 1000, MANY)
        assert [each.enqueued_at for each in records] == [begin + n // 2 * 10 for n in range(200)]
    async with opened(tmp_path, clock=clock, segment_bytes=500) as journal:
        for n in range(100):
            assert journal.find_time(0, begin + n * 10) == 2 * n
            assert journal.find_time(0, begin + n * 10 - 5) == 2 * n
        assert journal.find_time(0, begin - 1000) == 0
        assert journal.find_time(0, begin + 1e9) == 200
        assert journal.find_time(1, begin) == 0


async def test_records_are_found_by_their_offset(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_bytes=500) as journal:
        for n in range(60):
            await journal.append(n % 2, [b"a" * (n + 1), b"b"])
    async with opened(tmp_path, segment_bytes=500) as journal:
        for partition in (0, 1):
            records = await journal.read(partition, 0, 1000, MANY)
            assert len(records) == 60
            for before, record in zip([None, *records], records, strict=False):
                assert journal.find_offset(partition, record.offset) == record.sequence
                if before is not None:
                    assert journal.find_offset(partition, before.offset + 1) == record.sequence
            assert journal.find_offset(partition, -1) == 0
            assert journal.find_offset(partition, records[-1].offset + 1) == 60
            assert journal.find_offset(partition, 1 << 60) == 60
        assert journal.find_offset(2, 0) == 0


async def test_large_records_and_a_long_index(tmp_path: Path) -> None:
    data = [os.urandom(300_000) for _ in range(12)]
    async with opened(tmp_path, segment_bytes=1 << 20) as journal:
        for number, each in enumerate(data):
            await journal.append(number % 2, [each])
        for sequence in range(6):
            (record,) = await journal.read(1, sequence, 1, MANY)
            assert record.data == data[2 * sequence + 1]
    async with opened(tmp_path) as journal:
        assert await contents(journal, 0) == data[::2]


async def test_news_reaches_subscribers(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        seen: list[int] = []

        def fails() -> None:
            raise RuntimeError("a reader's mistake")

        end = journal.subscribe(lambda: seen.append(journal.bounds(0)[1]))
        journal.subscribe(fails)
        with capture_logs() as logs:
            await journal.append(0, [b"a"])
            await asyncio.sleep(0)
        assert seen == [1]
        assert len(logs) == 1
        end()
        end()
        await journal.append(0, [b"b"])
        await asyncio.sleep(0)
        assert seen == [1]


async def test_closing_stores_what_was_accepted(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, PARTITIONS, clock=ManualClock())
    futures = [journal.append(0, [b"%d" % n]) for n in range(1000)]
    await asyncio.gather(journal.close(), journal.close())
    assert [each.result() for each in futures] == [[n] for n in range(1000)]
    with pytest.raises(UnavailableError) as caught:
        await journal.append(0, [b"late"])
    assert caught.value.code == "store-unavailable"
    assert not [each for each in threading.enumerate() if each.name.startswith("journal")]
    async with opened(tmp_path) as again:
        assert len(await contents(again)) == 1000


async def test_callers_that_stopped_waiting_are_no_trouble(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        futures = [journal.append(0, [b"x"]) for _ in range(10)]
        for each in futures[::2]:
            each.cancel()
        assert await futures[-1] == [9]
        assert await journal.append(0, [b"x"]) == [10]


async def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        with pytest.raises(TypeError):
            await journal.append(0, ["text"])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            await journal.append(0, [5])  # type: ignore[list-item]
        with pytest.raises(TooLargeError):
            await journal.append(0, [bytes(journal_writer.MAX_APPEND + 1)])
        assert await journal.append(0, [b"a"]) == [0]


async def test_the_number_of_partitions_cannot_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.append(0, [b"a"])
    with pytest.raises(ConflictError, match="3 partitions"):
        await Journal.open(tmp_path, 4, clock=ManualClock())
    with pytest.raises(ValueError, match="not 0"):
        await Journal.open(tmp_path, 0, clock=ManualClock())


# Against a plain list.


ACTIONS = st.one_of(
    st.tuples(
        st.just("append"),
        st.integers(0, PARTITIONS - 1),
        st.lists(st.binary(max_size=60), min_size=1, max_size=8),
    ),
    st.tuples(st.just("reopen"), st.none(), st.none()),
    st.tuples(st.just("crash"), st.none(), st.none()),
    st.tuples(st.just("read"), st.integers(0, PARTITIONS - 1), st.integers(0, 60)),
    st.tuples(st.just("advance"), st.sampled_from([1, 20, 60, 200]), st.none()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ACTIONS, max_size=40), segment_bytes=st.sampled_from([150, 400, 1 << 20]))
async def test_it_behaves_like_lists(actions: list[Any], segment_bytes: int) -> None:
    model: list[list[tuple[float, bytes]]] = [[] for _ in range(PARTITIONS)]
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as root:
        directory, lives = Path(root) / "0", 0

        async def open_() -> Journal:
            return await Journal.open(
                directory,
                PARTITIONS,
                clock=clock,
                segment_bytes=segment_bytes,
                max_age_s=100.0,
                check_s=0.001,
            )

        async def check(journal: Journal, partition: int, sequence: int) -> None:
            earliest, following = journal.bounds(partition)
            assert following == len(model[partition])
            # All that is young enough is there.
            gone = model[partition][:earliest]
            assert all(at < clock.time() - 100 for at, _ in gone)
            # Retention may go on meanwhile.
            records = await journal.read(partition, sequence, 5, MANY)
            begin = records[0].sequence if records else following
            assert begin >= max(sequence, earliest) or begin == following
            assert begin <= max(sequence, journal.bounds(partition)[0]) or begin == following
            expected = model[partition][begin : begin + 5]
            assert [(each.enqueued_at, each.data) for each in records] == expected
            first = journal.find_time(partition, clock.time() - 30)
            times = [at for at, _ in model[partition]]
            exact = next((n for n, at in enumerate(times) if at >= clock.time() - 30), len(times))
            assert first == exact
            for record in records:
                found = journal.find_offset(partition, record.offset)
                # Empty records stand where the next one does.
                between = model[partition][found : record.sequence]
                assert found <= record.sequence or found == journal.bounds(partition)[0]
                assert not any(data for _, data in between)

        journal = await open_()
        for action, first, second in actions:
            if action == "append":
                begin = len(model[first])
                assert await journal.append(first, second) == list(
                    range(begin, begin + len(second))
                )
                model[first] += [(clock.time(), each) for each in second]
            elif action == "reopen":
                await journal.close()
                journal = await open_()
            elif action == "crash":
                lives += 1
                # Retention must not run while the files are copied.
                clock_was, journal._writer._check_s = clock.time(), 1e9
                await journal.append(0, [])
                before, directory = directory, Path(root) / str(lives)
                crashed(before, directory)
                await journal.close()
                assert clock.time() == clock_was
                journal = await open_()
            elif action == "read":
                await check(journal, first, second)
            else:
                clock.advance(first)
        for partition in range(PARTITIONS):
            await check(journal, partition, 0)
        await journal.close()
