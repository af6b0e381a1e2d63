"""What tests of the journal begin with."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.clock import ManualClock
from muster.store.journal import Journal

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


def files_of(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())
