"""The journal: a disk that refuses, and what goes with time."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from muster.clock import ManualClock
from muster.errors import UnavailableError
from muster.store import journal_writer
from muster.store.journal import Journal
from unit.store.journal_parts import MANY, PARTITIONS, contents, crashed, files_of, opened, settled

if TYPE_CHECKING:
    from collections.abc import Callable


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
