"""Writes to a store as fast as it can until it is killed; says what was acknowledged.

Lines on standard output: `row <entry>` for a write of several statements, `record <partition>
<sequence> <data>` for a record of the telemetry log.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import uvloop

from muster.clock import SystemClock
from muster.store.engine import Query, Statement
from muster.store.journal import Journal
from muster.store.sqlite import SqliteEngine

CALLERS: Final = 24
PARTITIONS: Final = 3
LINES: Final = 3
# Small, so that files are sealed, begun and deleted while the process is killed.
SEGMENT_BYTES: Final = 20_000
MAX_BYTES: Final = 4_000_000

TABLES: Final = """
CREATE TABLE entries (id TEXT PRIMARY KEY, life INTEGER);
CREATE TABLE lines (entry TEXT, n INTEGER);
CREATE INDEX lines_by_entry ON lines (entry);
CREATE TABLE totals (entries INTEGER);
INSERT INTO totals VALUES (0);
"""
ENTER: Final = Query("crash.enter", "INSERT INTO entries (id, life) VALUES (:id, :life)")
LINE: Final = Query("crash.line", "INSERT INTO lines (entry, n) VALUES (:entry, :n)")
TOTAL: Final = Query("crash.total", "UPDATE totals SET entries = entries + 1")


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def write(engine: SqliteEngine, name: str, life: int) -> None:
    for n in range(1 << 60):
        entry = f"{name}-{n}"
        await engine.write(
            Statement(ENTER, {"id": entry, "life": life}, expect=1),
            Statement(LINE, [{"entry": entry, "n": line} for line in range(LINES)]),
            Statement(TOTAL, {}, expect=1),
        )
        say(f"row {entry}")


async def append(journal: Journal, name: str, partition: int) -> None:
    for n in range(1 << 60):
        records = [f"{name}-{n}-{each}".encode() * (1 + n % 50) for each in range(1 + n % 4)]
        sequences = await journal.append(partition, records)
        for sequence, record in zip(sequences, records, strict=True):
            say(f"record {partition} {sequence} {record.decode()}")


async def main(directory: Path, life: int) -> None:
    engine = await SqliteEngine.open(directory / "muster.db")
    journal = await Journal.open(
        directory / "telemetry",
        PARTITIONS,
        clock=SystemClock(),
        segment_bytes=SEGMENT_BYTES,
        max_bytes=MAX_BYTES,
        check_s=0.05,
    )
    say("ready")
    await asyncio.gather(
        *(write(engine, f"{life}-{caller}", life) for caller in range(CALLERS)),
        *(append(journal, f"{life}-{caller}", caller % PARTITIONS) for caller in range(CALLERS)),
    )


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
