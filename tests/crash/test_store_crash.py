"""What was acknowledged before a kill -9 is there afterwards, and nothing is there by halves.

A child process writes to the database and to a telemetry log, many callers at a time, and says what
was acknowledged. It is killed at a random moment, again and again, each time going on with the
files the last one left.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import store_child

from muster.clock import ManualClock
from muster.store.engine import Query
from muster.store.journal import Journal
from muster.store.sqlite import SqliteEngine

KILLS: Final = 5

ALL: Final = Query(
    "crash.all",
    "SELECT e.id, count(l.n) FROM entries e LEFT JOIN lines l ON l.entry = e.id GROUP BY e.id",
)
LINES: Final = Query("crash.lines", "SELECT count(*) FROM lines")
TOTAL: Final = Query("crash.totals", "SELECT entries FROM totals")


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
            [sys.executable, store_child.__file__, str(directory), str(life)], stdout=said
        ) as child,
    ):
        deadline = time.monotonic() + 20
        while not output.stat().st_size and time.monotonic() < deadline:
            assert child.poll() is None, "the child ended by itself"
            time.sleep(0.002)
        time.sleep(run_s)
        assert child.poll() is None, "the child ended by itself"
        child.kill()
    lines = output.read_text().split("\n")
    # The last one may be cut off.
    return lines[:-1]


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    moments = random.Random(seed)
    with closing(sqlite3.connect(tmp_path / "muster.db")) as connection:
        connection.executescript(store_child.TABLES)
    acknowledged = Acknowledged()
    for life in range(KILLS):
        lines = await asyncio.to_thread(kill_one, tmp_path, life, moments.uniform(0.01, 0.4))
        assert lines[0] == "ready"
        acknowledged.take(lines)
        await check_rows(tmp_path, acknowledged)
        await check_records(tmp_path, acknowledged)
    assert len(acknowledged.rows) > 100
    assert len(acknowledged.records) > 100


async def check_rows(directory: Path, acknowledged: Acknowledged) -> None:
    engine = await SqliteEngine.open(directory / "muster.db")
    counts = dict(await engine.read(ALL, {}))
    assert acknowledged.rows <= set(counts), "an acknowledged write is gone"
    assert set(counts.values()) <= {store_child.LINES}, "a write is there by half"
    assert await engine.read(LINES, {}) == [(len(counts) * store_child.LINES,)]
    assert await engine.read(TOTAL, {}) == [(len(counts),)]
    await engine.close()


async def check_records(directory: Path, acknowledged: Acknowledged) -> None:
    journal = await Journal.open(
        directory / "telemetry", store_child.PARTITIONS, clock=ManualClock(), check_s=60.0
    )
    bounds = [journal.bounds(partition) for partition in range(store_child.PARTITIONS)]
    found: dict[tuple[int, int], bytes] = {}
    for partition, (earliest, following) in enumerate(bounds):
        sequence = earliest
        while sequence < following:
            for record in await journal.read(partition, sequence, 1000, 1 << 20):
                assert record.sequence == sequence
                found[partition, sequence] = record.data
                sequence += 1
    await journal.close()
    for (partition, sequence), data in acknowledged.records.items():
        earliest, following = bounds[partition]
        assert sequence < following, "an acknowledged record is gone"
        # Retention may have taken the oldest ones.
        if sequence >= earliest:
            assert found[partition, sequence] == data
