"""The telemetry journal: what is acknowledged stays, in order, under every failure of the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import tempfile
import threading
import zlib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from muster.clock import ManualClock
from muster.errors import ConflictError, TooLargeError, UnavailableError
from muster.store import journal_writer
from muster.store.journal import Journal, JournalDamagedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PARTITIONS = 3
MANY = 1 << 30


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[Journal]:
    options.setdefault("clock", ManualClock())
    options.setdefault(
        "check_s", 0.01 if "max_age_s" in options or "max_bytes" in options else 60.0
    )
    partitions = options.pop("partitions", PARTITIONS)
    journal = await Journal.open(directory, partitions, **options)
    try:
        yield journal
    finally:
        await journal.close()


async def contents(journal: Journal, partition: int = 0) -> list[bytes]:
    """Read all of a partition, checking what every read promises."""
    sequence, until = journal.bounds(partition)
    found: list[bytes] = []
    offset = -1
    while sequence < until:
        records = await journal.read(partition, sequence, 7, 1000)
        assert records
        for record in records:
            assert record.partition == partition
            assert record.sequence == sequence
            assert record.offset >= offset
            sequence, offset = sequence + 1, record.offset
            found.append(record.data)
    assert await journal.read(partition, until, 7, 1000) == []
    return found


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


def crashed(directory: Path, to: Path) -> Path:
    """Copy files as a killed process leaves them."""
    to.mkdir()
    for file in directory.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


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


# Torn and damaged files.


async def test_every_torn_end_is_cut_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path / "a") as journal:
        await journal.append(0, [b"one", b"two"])
        await journal.append(1, [b"three"])
        begin = journal._writer.segments[-1].end
        await journal.append(0, [b"four", b"five"])
        end = journal._writer.segments[-1].end
        (file,) = (tmp_path / "a").iterdir()
        whole = file.read_bytes()[:end]
    for zeros in (0, 100):
        for size in range(begin, end):
            directory = tmp_path / f"{zeros}-{size}"
            directory.mkdir()
            (directory / file.name).write_bytes(whole[:size] + bytes(zeros))
            with capture_logs() as logs:
                async with opened(directory) as journal:
                    assert await contents(journal, 0) == [b"one", b"two"]
                    assert await contents(journal, 1) == [b"three"]
                    assert await journal.append(0, [b"after"]) == [2]
                    assert await contents(journal, 0) == [b"one", b"two", b"after"]
            # The marker may end in a byte that is zero.
            assert len(logs) == (0 if size == begin else 1), logs
            async with opened(directory) as journal:
                assert await contents(journal, 0) == [b"one", b"two", b"after"]


async def test_a_file_torn_while_it_was_made_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.append(0, [b"one"])
    (tmp_path / "00000000000000000999.new").write_bytes(b"MSTR")
    async with opened(tmp_path) as journal:
        assert await journal.append(0, [b"two"]) == [1]
    assert [each.suffix for each in files_of(tmp_path)] == [".journal"] * 2


async def filled(directory: Path, segment_bytes: int = 300) -> list[list[bytes]]:
    """Write a journal of several sealed files, one frame at a time."""
    model: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    async with opened(directory, segment_bytes=segment_bytes) as journal:
        for n in range(18):
            records = [b"%d-%d" % (n, each) for each in range(n % 3 + 1)]
            model[n % PARTITIONS] += records
            await journal.append(n % PARTITIONS, records)
    return model


def check_report(
    error: JournalDamagedError, directory: Path, partition: int, sequence: int
) -> None:
    assert error.path.parent == directory
    assert str(error.path) in error.message
    assert f"byte {error.position}" in error.message
    assert "backup" in error.message
    assert (error.partition, error.lost) == (partition, sequence)
    assert error.resume_sequence > sequence


def files_of(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


async def survivors(directory: Path, model: list[list[bytes]]) -> int:
    """Read all that can be read; return how often damage was met. Nothing wrong may come."""
    met = 0
    async with opened(directory, segment_bytes=300) as journal:
        for partition in range(PARTITIONS):
            sequence = 0
            while sequence < journal.bounds(partition)[1]:
                try:
                    records = await journal.read(partition, sequence, 100, MANY)
                except JournalDamagedError as error:
                    met += 1
                    check_report(error, directory, partition, sequence)
                    sequence = error.resume_sequence
                    continue
                assert records
                for record in records:
                    assert record.sequence == sequence
                    assert record.data == model[partition][sequence]
                    sequence += 1
            assert sequence >= len(model[partition]), "a number would be used twice"
    return met


async def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    model = await filled(directory)
    files = sorted(directory.iterdir())
    assert len(files) >= 4
    target = files[1]
    whole = target.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        target.write_bytes(damaged)
        with capture_logs() as logs:
            met = await survivors(directory, model)
        assert met or logs, position
        for each in set(directory.iterdir()) - set(files):
            each.unlink()
    target.write_bytes(whole)
    assert await survivors(directory, model) == 0


async def test_a_flipped_bit_in_the_file_that_was_written_to(tmp_path: Path) -> None:
    async with opened(tmp_path / "a") as journal:
        ends = []
        for n in range(6):
            await journal.append(n % PARTITIONS, [b"record %d" % n])
            ends.append(journal._writer.segments[-1].end)
        (file,) = (tmp_path / "a").iterdir()
        whole = file.read_bytes()[: ends[-1]]
    model = [[b"record 0", b"record 3"], [b"record 1", b"record 4"], [b"record 2", b"record 5"]]
    for position in range(ends[-2]):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        directory = tmp_path / f"{position}"
        directory.mkdir()
        (directory / file.name).write_bytes(damaged)
        with capture_logs() as logs:
            await survivors(directory, model)
        assert logs, position
        # The rest of the file is not given up.
        async with opened(directory) as journal:
            (last,) = await journal.read(2, 1, 1, MANY)
            assert last.data == b"record 5"


async def test_a_lost_file_is_told_and_the_rest_read(tmp_path: Path) -> None:
    model = await filled(tmp_path)
    files_of(tmp_path)[2].unlink()
    with capture_logs() as logs:
        assert await survivors(tmp_path, model) >= 1
    assert any("missing" in each["event"] for each in logs)


async def test_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    await filled(tmp_path)
    file = files_of(tmp_path)[-1]
    data = bytearray(file.read_bytes())
    struct.pack_into("<H", data, 12, 2)
    end = 32 + 8 * PARTITIONS
    struct.pack_into("<I", data, 8, zlib.crc32(data[12:end]))
    file.write_bytes(data)
    with pytest.raises(UnavailableError, match="newer version") as caught:
        await Journal.open(tmp_path, PARTITIONS, clock=ManualClock())
    assert caught.value.code == "journal-too-new"
    assert file.read_bytes() == data


# A disk that refuses.


class Disk:
    """Stands between the writer and the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self.at = "pwrite"
        self.partial = 0
        self._real = {
            name: getattr(os, name) for name in ("pwrite", "fdatasync", "posix_fallocate")
        }
        for name, call in self._real.items():
            monkeypatch.setattr(journal_writer.os, name, self._wrap(name, call))

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if self.error is None or name not in (self.at, "posix_fallocate"):
                return call(*arguments)
            if name == "pwrite" and self.partial:
                descriptor, data, position = arguments
                part, self.partial = self.partial, 0
                return call(descriptor, data[:part], position)
            raise OSError(self.error, os.strerror(self.error))

        return wrapped


@pytest.mark.parametrize("at", ["pwrite", "fdatasync"])
@pytest.mark.parametrize("segment_bytes", [150, 1 << 20])
async def test_a_disk_that_refuses_is_got_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, segment_bytes: int
) -> None:
    disk = Disk(monkeypatch)
    disk.at = at
    async with opened(tmp_path / "a", segment_bytes=segment_bytes) as journal:
        model: list[bytes] = []
        for turn in range(6):
            record = b"record %d" % turn * (turn + 1)
            assert await journal.append(0, [record]) == [len(model)]
            model.append(record)
            disk.error, disk.partial = errno.ENOSPC, 5 * turn
            with capture_logs() as logs:
                results = await asyncio.gather(
                    *(journal.append(n % 2, [b"refused", bytes(100)]) for n in range(5)),
                    return_exceptions=True,
                )
            assert all(isinstance(each, UnavailableError) for each in results), results
            assert "No space left" in str(results[0])
            assert [each["event"] for each in logs] == ["telemetry cannot be stored"]
            assert await contents(journal) == model
            disk.error = None
            lost = crashed(tmp_path / "a", tmp_path / f"{turn}")
            async with opened(lost) as other:
                # What was refused may have reached the disk, but nothing is missing or wrong.
                assert (await contents(other))[: len(model)] == model
        assert journal.bounds(1) == (0, 0)
        assert await journal.append(1, [b"other"]) == [0]
    async with opened(tmp_path / "a") as journal:
        assert await contents(journal, 0) == model
        assert await contents(journal, 1) == [b"other"]


async def test_closing_on_a_disk_that_refuses_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    journal = await Journal.open(tmp_path, PARTITIONS, clock=ManualClock())
    await journal.append(0, [b"a"])
    disk.error, disk.partial = errno.EIO, 7
    await journal.close()
    disk.error = None
    async with opened(tmp_path) as again:
        assert await contents(again) == [b"a"]
        assert await again.append(0, [b"b"]) == [1]


# Retention.


async def test_old_files_go_and_numbers_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock, segment_bytes=200, max_age_s=100.0) as journal:
        for _ in range(20):
            await journal.append(0, [bytes(50)])
            clock.advance(10)
        await journal.append(0, [])
        # Two to a file at most, and the eleventh is young enough.
        await settled(lambda: journal.bounds(0)[0] >= 9)
        earliest, following = journal.bounds(0)
        assert (earliest <= 10, following) == (True, 20)
        records = await journal.read(0, 0, 100, MANY)
        assert [each.sequence for each in records] == list(range(records[0].sequence, 20))
        assert sum(each.enqueued_at >= clock.time() - 100 for each in records) == 10
        clock.advance(1000)
        await journal.append(1, [])
        await settled(lambda: journal.bounds(0) == (20, 20))
        await settled(lambda: len(files_of(tmp_path)) == 1)
        assert await journal.read(0, 0, 10, MANY) == []
    for n in range(20, 23):
        async with opened(tmp_path, clock=clock, max_age_s=100.0) as journal:
            assert await journal.append(0, [b"x"]) == [n]


async def test_numbers_go_on_after_a_long_rest(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as journal:
        await journal.append(0, [b"a"] * 5)
    clock.advance(1e9)
    for _ in range(2):
        async with opened(tmp_path, clock=clock, max_age_s=100.0) as journal:
            await settled(lambda journal=journal: journal.bounds(0) == (5, 5))  # type: ignore[misc]
    async with opened(tmp_path, clock=clock) as journal:
        assert await journal.append(0, [b"b"]) == [5]


async def test_the_oldest_go_when_it_is_too_much(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock, segment_bytes=2_000, max_bytes=10_000) as journal:
        for _ in range(100):
            await journal.append(0, [bytes(500)])
            clock.advance(1)
        await settled(lambda: len(files_of(tmp_path)) < 6)
        earliest, following = journal.bounds(0)
        assert 0 < earliest < following == 100
        assert len(await contents(journal)) == following - earliest


async def test_reading_while_files_go(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock, segment_bytes=2_000, max_bytes=6_000) as journal:
        stop = asyncio.Event()

        async def write() -> None:
            for n in range(400):
                await journal.append(0, [b"%d" % n + bytes(200)])
                clock.advance(1)
            stop.set()

        async def follow() -> None:
            sequence = 0
            while not stop.is_set():
                for record in await journal.read(0, sequence, 10, MANY):
                    assert record.sequence >= sequence
                    assert record.data.startswith(b"%d\0" % record.sequence)
                    sequence = record.sequence + 1
                await journal.read(0, 0, 1, MANY)
                # Reading where nothing is does not wait for anything.
                await asyncio.sleep(0)

        await asyncio.gather(write(), follow(), follow())


async def test_gigabytes_open_at_once(tmp_path: Path) -> None:
    """Sealed files are known by their last bytes; only these are read."""
    async with opened(tmp_path, segment_bytes=1 << 20) as journal:
        for _ in range(40):
            await journal.append(0, [bytes(1000)] * 1000)
    reads: list[int] = []
    real = os.pread

    def counting(descriptor: int, size: int, position: int) -> bytes:
        data = real(descriptor, size, position)
        reads.append(len(data))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counting)
        async with opened(tmp_path) as journal:
            assert journal.bounds(0) == (0, 40_000)
            assert sum(reads) < 40 * 20_000
