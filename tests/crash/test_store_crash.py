"""What was acknowledged before a kill -9 is there afterwards, and nothing is there by halves.

A child process writes to the database and to a telemetry log as fast as it can, many callers at a
time, and says on a pipe what was acknowledged. It is killed at a random moment, again and again,
each time going on with the files the last one left.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from muster.clock import ManualClock, SystemClock
from muster.store.engine import Query, Statement
from muster.store.journal import Journal
from muster.store.sqlite import SqliteEngine

KILLS: Final = 5
CALLERS: Final = 24
PARTITIONS: Final = 3
# Small, so that files are sealed, begun and deleted while the child is killed.
SEGMENT_BYTES: Final = 20_000
MAX_BYTES: Final = 4_000_000

ENTER: Final = Query("crash.enter", "INSERT INTO entries (id, life) VALUES (:id, :life)")
LINE: Final = Query("crash.line", "INSERT INTO lines (entry, n) VALUES (:entry, :n)")
TOTAL: Final = Query("crash.total", "UPDATE totals SET entries = entries + 1")
LINES: Final = 3


def make_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE entries (id TEXT PRIMARY KEY, life INTEGER);"
            "CREATE TABLE lines (entry TEXT, n INTEGER);"
            "CREATE INDEX lines_by_entry ON lines (entry);"
            "CREATE TABLE totals (entries INTEGER); INSERT INTO totals VALUES (0);"
        )


# The child.


async def work(directory: Path, life: int) -> None:
    engine = await SqliteEngine.open(directory / "muster.db")
    journal = await open_journal(directory)

    def say(line: str) -> None:
        # One write, so a line is whole or not there.
        os.write(1, f"{line}\n".encode())

    async def write(caller: int) -> None:
        for n in range(1_000_000):
            entry = f"{life}-{caller}-{n}"
            await engine.write(
                Statement(ENTER, {"id": entry, "life": life}, expect=1),
                Statement(LINE, [{"entry": entry, "n": line} for line in range(LINES)]),
                Statement(TOTAL, {}, expect=1),
            )
            say(f"row {entry}")

    async def append(caller: int) -> None:
        partition = caller % PARTITIONS
        for n in range(1_000_000):
            records = [f"{life}-{caller}-{n}-{each}".encode() * 3 for each in range(1 + n % 4)]
            for sequence, record in zip(
                await journal.append(partition, records), records, strict=True
            ):
                say(f"record {partition} {sequence} {record.decode()}")

    say("ready")
    await asyncio.gather(
        *(write(caller) for caller in range(CALLERS)),
        *(append(caller) for caller in range(CALLERS)),
    )


async def open_journal(directory: Path) -> Journal:
    return await Journal.open(
        directory / "telemetry",
        PARTITIONS,
        clock=SystemClock(),
        segment_bytes=SEGMENT_BYTES,
        max_bytes=MAX_BYTES,
        check_s=0.05,
    )


# The test.


class Acknowledged:
    """What the children said."""

    def __init__(self) -> None:
        self.rows: set[str] = set()
        self.records: dict[tuple[int, int], bytes] = {}

    def take(self, lines: list[str]) -> None:
        for line in lines:
            kind, *rest = line.split(" ")
            if kind == "row":
                self.rows.add(rest[0])
            elif kind == "record":
                place = (int(rest[0]), int(rest[1]))
                assert place not in self.records, f"{place} was given out twice"
                self.records[place] = rest[2].encode()


def kill_one(directory: Path, life: int, run_s: float) -> list[str]:
    """Let a child work for a while, kill it, and return the lines it said."""
    output = directory / f"said-{life}"
    with (
        output.open("wb") as said,
        subprocess.Popen(
            [sys.executable, __file__, str(directory), str(life)], stdout=said
        ) as child,
    ):
        deadline = time.monotonic() + 10
        while b"ready" not in output.read_bytes() and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.005)
        time.sleep(run_s)
        assert child.poll() is None, "the child ended by itself"
        child.kill()
    return output.read_text().splitlines()


@pytest.fixture
def moments() -> list[float]:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    source = random.Random(seed)
    return [source.uniform(0.02, 0.5) for _ in range(KILLS)]


async def test_nothing_acknowledged_is_lost(tmp_path: Path, moments: list[float]) -> None:
    make_tables(tmp_path / "muster.db")
    acknowledged = Acknowledged()
    for life, run_s in enumerate(moments):
        lines = await asyncio.to_thread(kill_one, tmp_path, life, run_s)
        assert lines[0] == "ready"
        before = len(acknowledged.rows), len(acknowledged.records)
        acknowledged.take(lines)
        await check_rows(tmp_path, acknowledged)
        await check_records(tmp_path, acknowledged)
        print(life, run_s, len(acknowledged.rows) - before[0])
    assert len(acknowledged.rows) > 100
    assert len(acknowledged.records) > 100


async def check_rows(directory: Path, acknowledged: Acknowledged) -> None:
    engine = await SqliteEngine.open(directory / "muster.db")
    found = await engine.read(
        Query(
            "crash.all",
            "SELECT e.id, count(l.n) FROM entries e LEFT JOIN lines l ON l.entry = e.id"
            " GROUP BY e.id",
        ),
        {},
    )
    counts = dict(found)
    assert acknowledged.rows <= set(counts)
    assert set(counts.values()) == {LINES}, "a write is there by half"
    (lines,) = await engine.read(Query("crash.lines", "SELECT count(*) FROM lines"), {})
    (total,) = await engine.read(Query("crash.totals", "SELECT entries FROM totals"), {})
    assert lines == (len(counts) * LINES,)
    assert total == (len(counts),)
    await engine.close()


async def check_records(directory: Path, acknowledged: Acknowledged) -> None:
    journal = await Journal.open(
        directory / "telemetry", PARTITIONS, clock=ManualClock(), check_s=60.0
    )
    for partition in range(PARTITIONS):
        earliest, following = journal.bounds(partition)
        assert all(
            sequence < following for owner, sequence in acknowledged.records if owner == partition
        )
        sequence = earliest
        while sequence < following:
            for record in await journal.read(partition, sequence, 1000, 1 << 20):
                assert record.sequence == sequence
                told = acknowledged.records.get((partition, sequence))
                assert told in {None, record.data}
                sequence += 1
    await journal.close()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
