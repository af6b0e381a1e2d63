"""The journal: files that are torn or damaged."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from muster.clock import ManualClock
from muster.errors import UnavailableError
from muster.store.journal import Journal, JournalDamagedError
from unit.store.journal_parts import MANY, PARTITIONS, contents, files_of, opened

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
