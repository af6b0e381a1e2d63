"""Writes to a store until it is killed; says on its standard output what was acknowledged.

Lines: `w <n>` a write of three rows, `j <partition> <sequence> <data>` a journal record.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from muster.clock import SystemClock
from muster.store.data_directory import DataDirectory
from muster.store.engine import Query, Statement
from muster.store.journal import Journal
from muster.store.sqlite import SqliteEngine

PARTITIONS = 4
ROWS = 3
MAKE = Query(
    "c.make", "CREATE TABLE IF NOT EXISTS c (n INTEGER, part INTEGER, UNIQUE (n, part)) STRICT"
)
ADD = Query("c.add", "INSERT INTO c VALUES (:n, :part)")
COUNT = Query("c.count", "SELECT n, count(*) FROM c GROUP BY n", scan=True)
SEGMENT_BYTES = 20_000


async def open_journal(directory: DataDirectory) -> Journal:
    return await Journal.open(
        directory.journal_directory("hub.test"),
        PARTITIONS,
        clock=SystemClock(),
        segment_bytes=SEGMENT_BYTES,
    )


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def write(engine: SqliteEngine, first: int, step: int) -> None:
    for n in range(first, 1 << 60, step):
        await engine.write(*(Statement(ADD, {"n": n, "part": part}) for part in range(ROWS)))
        say(f"w {n}")


async def append(journal: Journal, life: int, partition: int) -> None:
    for n in range(1 << 60):
        data = [f"{life}.{partition}.{n}.{each}" for each in range(n % 5 + 1)]
        padded = [each.encode() + b" " * (n % 300) for each in data]
        sequences = await journal.append(partition, padded)
        for sequence, each in zip(sequences, data, strict=True):
            say(f"j {partition} {sequence} {each}")


async def main(path: Path, life: int) -> None:
    directory = DataDirectory.open(path)
    engine = await SqliteEngine.open(directory.database)
    await engine.write(Statement(MAKE, {}))
    journal = await open_journal(directory)
    base = life * 1_000_000
    await asyncio.gather(
        *(write(engine, base + n, 8) for n in range(8)),
        *(append(journal, life, n % PARTITIONS) for n in range(8)),
    )


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
