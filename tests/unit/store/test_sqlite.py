"""SQLite behind the store port: whole writes, one commit for many, and what the disk can do."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from muster.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    PreconditionFailedError,
    UnavailableError,
)
from muster.store import sqlite, worker
from muster.store.engine import Query, Statement
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAKE = Query("t.make", "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL, b BLOB) STRICT")
ADD = Query("t.add", "INSERT INTO t (k, n) VALUES (:k, :n)")
FILL = Query("t.fill", "INSERT INTO t (k, n, b) VALUES (:k, 0, zeroblob(:size))")
SET = Query("t.set", "UPDATE t SET n = :n WHERE k = :k")
RAISE = Query("t.raise", "UPDATE t SET n = n + 1 WHERE n = :n")
DELETE = Query("t.delete", "DELETE FROM t")
GET = Query("t.get", "SELECT n FROM t WHERE k = :k")
ALL = Query("t.all", "SELECT k, n FROM t ORDER BY k", scan=True)
# Runs for as long as it is let.
SLOW = Query(
    "t.slow",
    "WITH RECURSIVE c (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM c WHERE i < 3000000) "
    "SELECT max(i) FROM c",
    scan=True,
)


def add(k: str, n: int = 0, **options: object) -> Statement:
    return Statement(ADD, {"k": k, "n": n}, **options)  # type: ignore[arg-type]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[SqliteEngine]:
    made = await SqliteEngine.open(tmp_path / "muster.db")
    await made.write(Statement(MAKE, {}))
    yield made
    await made.close()


async def keys(engine: SqliteEngine) -> dict[object, object]:
    return {row[0]: row[1] for row in await engine.read(ALL, {})}


async def test_an_expectation_that_fails_undoes_its_write_alone(engine: SqliteEngine) -> None:
    refusal = PreconditionFailedError("somebody was faster")
    results = await asyncio.gather(
        engine.write(add("a")),
        engine.write(
            add("b"), Statement(SET, {"k": "none", "n": 1}, expect=1, otherwise=refusal), add("c")
        ),
        engine.write(add("d"), Statement(SET, {"k": "a", "n": 5}, expect=1)),
        return_exceptions=True,
    )
    assert results == [None, refusal, None]
    assert await keys(engine) == {"a": 5, "d": 0}


@pytest.mark.parametrize(
    "first",
    [
        Statement(ADD, {"k": "b", "n": 0}),
        # Python does not count its rows.
        Statement(
            Query("t.cte", "WITH c AS (SELECT :k AS k) INSERT INTO t SELECT k, 0, NULL FROM c"),
            {"k": "b"},
        ),
        Statement(ADD, [{"k": "b", "n": 0}]),
    ],
    ids=["plain", "uncounted", "bulk"],
)
async def test_whatever_changed_before_a_failure_is_undone(
    engine: SqliteEngine, first: Statement
) -> None:
    results = await asyncio.gather(
        engine.write(add("a")),
        engine.write(first, add("a")),
        engine.write(add("c"), add("d")),
        return_exceptions=True,
    )
    assert results[0] is results[2] is None
    assert isinstance(results[1], AlreadyExistsError)
    assert await keys(engine) == {"a": 0, "c": 0, "d": 0}


async def test_a_wrong_number_of_rows_is_a_conflict(engine: SqliteEngine) -> None:
    with pytest.raises(ConflictError, match=r"t\.set affected 0 rows, not 1"):
        await engine.write(Statement(SET, {"k": "none", "n": 1}, expect=1))


async def test_expecting_none_is_an_expectation(engine: SqliteEngine) -> None:
    await engine.write(add("a"))
    with pytest.raises(ConflictError):
        await engine.write(Statement(SET, {"k": "a", "n": 1}, expect=0))
    assert await keys(engine) == {"a": 0}


async def test_a_duplicate_says_so_or_what_it_was_told_to(engine: SqliteEngine) -> None:
    await engine.write(add("a"))
    with pytest.raises(AlreadyExistsError):
        await engine.write(add("b"), add("a"))
    refusal = ConflictError("taken")
    with pytest.raises(ConflictError) as caught:
        await engine.write(add("b"), add("a", otherwise=refusal))
    assert caught.value is refusal
    assert await keys(engine) == {"a": 0}


async def test_what_sqlite_finds_too_complex_is_told_from_mistakes(engine: SqliteEngine) -> None:
    for text in (
        "SELECT " + " || ".join(["'a'"] * 2_000),
        "SELECT " + "(" * 2_000 + "1" + ")" * 2_000,
        "SELECT " + ", ".join(["1"] * 3_000),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await engine.read(Query("complex", text), {})
        assert refused.value.code == "query-too-complex"


async def test_other_violations_are_mistakes_and_never_pass_for_duplicates(
    engine: SqliteEngine,
) -> None:
    bad = Statement(ADD, {"k": "a", "n": None}, otherwise=AlreadyExistsError("no"))
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        await engine.write(bad)


async def test_many_rows_in_one_statement(engine: SqliteEngine) -> None:
    rows = [{"k": f"{n:03}", "n": n} for n in range(300)]
    await engine.write(Statement(ADD, rows, expect=300))
    await engine.write(Statement(ADD, [], expect=0))
    assert len(await keys(engine)) == 300
    with pytest.raises(AlreadyExistsError):
        await engine.write(Statement(ADD, [{"k": "new", "n": 1}, *rows[:1]]))
    assert "new" not in await keys(engine)


@pytest.mark.parametrize(
    "statement",
    [
        Statement(Query("bad.sql", "SELEC 1"), {}),
        Statement(Query("bad.table", "DELETE FROM none"), {}),
        Statement(ADD, {"k": "x"}),
        Statement(ADD, {"k": "x", "n": 1 << 70}),
        Statement(ADD, {"k": "\ud800", "n": 1}),
        Statement(ADD, {"k": "x", "n": object()}),  # type: ignore[dict-item]
        Statement(ADD, {"k": "x", "n": "text"}),
        Statement(ADD, [{"k": "x", "n": 1}, None]),  # type: ignore[list-item]
    ],
)
async def test_a_mistake_hurts_nobody_else(engine: SqliteEngine, statement: Statement) -> None:
    results = await asyncio.gather(
        engine.write(add("a")),
        engine.write(add("b"), statement),
        engine.write(add("c")),
        return_exceptions=True,
    )
    assert results[0] is results[2] is None
    assert isinstance(results[1], Exception)
    assert not isinstance(results[1], UnavailableError)
    assert await keys(engine) == {"a": 0, "c": 0}


@pytest.mark.parametrize(
    ("query", "params"),
    [
        (Query("bad.sql", "SELEC 1"), {}),
        (GET, {}),
        (GET, {"k": 1 << 70}),
        (GET, {"k": "\ud800"}),
    ],
)
async def test_a_bad_read_hurts_nobody_else(
    engine: SqliteEngine, query: Query, params: dict[str, str | int]
) -> None:
    await engine.write(add("a", 1))
    results = await asyncio.gather(
        engine.read(GET, {"k": "a"}),
        engine.read(query, params),
        engine.read(GET, {"k": "a"}),
        return_exceptions=True,
    )
    assert results[0] == results[2] == [(1,)]
    assert isinstance(results[1], Exception)


async def test_a_read_sees_every_write_that_returned(engine: SqliteEngine) -> None:
    async def one(k: str) -> None:
        await engine.write(add(k))
        for n in range(1, 20):
            await engine.write(Statement(SET, {"k": k, "n": n}, expect=1))
            assert await engine.read(GET, {"k": k}) == [(n,)]

    await asyncio.gather(*(one(f"{n}") for n in range(20)))


async def test_writers_that_race_on_a_condition_have_one_winner(engine: SqliteEngine) -> None:
    await engine.write(add("a"))
    results = await asyncio.gather(
        *(engine.write(Statement(RAISE, {"n": 0}, expect=1)) for _ in range(50)),
        return_exceptions=True,
    )
    assert results.count(None) == 1
    assert await keys(engine) == {"a": 1}


async def test_writes_keep_their_order(engine: SqliteEngine) -> None:
    await engine.write(add("a"))
    await asyncio.gather(
        *(engine.write(Statement(RAISE, {"n": n}, expect=1)) for n in range(5_000))
    )
    assert await keys(engine) == {"a": 5_000}


async def test_a_scan_holds_up_no_read_by_key(engine: SqliteEngine) -> None:
    await engine.write(add("a", 7))
    scan = asyncio.ensure_future(engine.read(SLOW, {}))
    await asyncio.sleep(0)
    for _ in range(5):
        assert await engine.read(GET, {"k": "a"}) == [(7,)]
    assert not scan.done()
    assert await scan == [(3_000_000,)]


async def test_callers_that_stopped_waiting_are_no_trouble(engine: SqliteEngine) -> None:
    tasks = [asyncio.ensure_future(engine.write(add(f"{n}"))) for n in range(10)]
    reads = [asyncio.ensure_future(engine.read(GET, {"k": "0"})) for _ in range(10)]
    await asyncio.sleep(0)
    for task in [*tasks[::2], *reads[::2]]:
        task.cancel()
    await asyncio.gather(*tasks, *reads, return_exceptions=True)
    await engine.write(add("last"))
    # What was handed over is written, whoever waits for it.
    assert len(await keys(engine)) == 11


async def test_closing_finishes_what_was_accepted(tmp_path: Path) -> None:
    engine = await SqliteEngine.open(tmp_path / "muster.db")
    await engine.write(Statement(MAKE, {}))
    writes = [asyncio.ensure_future(engine.write(add(f"{n}"))) for n in range(5_000)]
    reads = [asyncio.ensure_future(engine.read(ALL, {})) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    await asyncio.gather(*writes, *reads)
    for call in (engine.write(add("late")), engine.read(ALL, {}), engine.read(GET, {"k": "0"})):
        with pytest.raises(UnavailableError) as caught:
            await call
        assert caught.value.code == "store-unavailable"
    with closing(sqlite3.connect(tmp_path / "muster.db")) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (5_000,)
    assert not [each for each in threading.enumerate() if each.name.startswith("store-")]
    assert not (tmp_path / "muster.db-wal").exists()


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    engine = await SqliteEngine.open(tmp_path / "muster.db")
    await engine.write(Statement(MAKE, {}), add("a", 3))
    await engine.close()
    again = await SqliteEngine.open(tmp_path / "muster.db")
    assert await keys(again) == {"a": 3}
    await again.close()


async def test_a_full_disk_refuses_whole_writes_and_is_got_over(engine: SqliteEngine) -> None:
    await engine.write(add("a"))
    (pages,) = engine._writing.execute("PRAGMA page_count").fetchone()
    engine._writing.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(UnavailableError) as caught:
        await engine.write(add("b"), Statement(FILL, {"k": "big", "size": 1_000_000}), add("c"))
    assert caught.value.code == "store-unavailable"
    assert await keys(engine) == {"a": 0}
    await engine.write(add("small"))
    engine._writing.execute("PRAGMA max_page_count = 1000000")
    await engine.write(Statement(FILL, {"k": "big", "size": 1_000_000}))
    assert set(await keys(engine)) == {"a", "big", "small"}


async def test_a_locked_database_is_unavailable_not_wrong(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    engine._writing.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(tmp_path / "muster.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="locked"):
            await engine.write(add("a"))
        other.execute("ROLLBACK")
    await engine.write(add("a"))
    assert await keys(engine) == {"a": 0}


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "muster.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(UnavailableError, match=str(path)) as caught:
        await SqliteEngine.open(path)
    assert caught.value.code == "store-damaged"


async def test_a_statement_that_hits_too_many_rows_is_undone_alone(engine: SqliteEngine) -> None:
    await engine.write(add("a"), add("b"))
    results = await asyncio.gather(
        engine.write(add("c", 5)),
        engine.write(Statement(RAISE, {"n": 0}, expect=1)),
        engine.write(Statement(SET, {"k": "c", "n": 6}, expect=1)),
        return_exceptions=True,
    )
    assert results[0] is results[2] is None
    assert isinstance(results[1], ConflictError)
    assert await keys(engine) == {"a": 0, "b": 0, "c": 6}


async def test_rows_are_counted_behind_a_common_table_expression(engine: SqliteEngine) -> None:
    await engine.write(add("a"), add("b"))
    sql = "WITH w (k) AS (VALUES ('a')) UPDATE t SET n = 1 WHERE k IN (SELECT k FROM w)"
    await engine.write(Statement(Query("t.with", sql), {}, expect=1))
    with pytest.raises(ConflictError, match="affected 1 rows, not 2"):
        await engine.write(Statement(Query("t.with", sql), {}, expect=2))


async def test_the_log_of_writes_stays_bounded_while_others_read(
    engine: SqliteEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_WAL_CHECK_EVERY", 8)
    monkeypatch.setattr(sqlite, "_MAX_WAL_BYTES", 2 << 20)
    engine._writing.execute("PRAGMA wal_autocheckpoint = 100")
    await engine.write(add("a"))
    stop = False

    async def keep_reading() -> None:
        while not stop:
            await asyncio.gather(*(engine.read(GET, {"k": "a"}) for _ in range(5)))

    readers = [asyncio.ensure_future(keep_reading()) for _ in range(3)]
    sizes = []
    for n in range(120):
        await engine.write(Statement(FILL, {"k": f"{n}", "size": 100_000}))
        sizes.append((tmp_path / "muster.db-wal").stat().st_size)
    stop = True
    await asyncio.gather(*readers)
    assert max(sizes) < 6 << 20


async def test_the_log_of_writes_is_emptied_when_nothing_is_to_do(
    engine: SqliteEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "muster.db").stat().st_size
    monkeypatch.setattr(worker, "_IDLE_S", 0.01)
    await engine.write(Statement(FILL, {"k": "a", "size": 100_000}))
    for _ in range(500):
        if (tmp_path / "muster.db").stat().st_size > before:
            break
        await asyncio.sleep(0.01)
    assert (tmp_path / "muster.db").stat().st_size >= before + 100_000


async def test_a_disk_that_is_really_full(engine: SqliteEngine, tmp_path: Path) -> None:
    """The kernel's limit on the size of files stands in for a small disk."""
    await engine.write(add("a"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "muster.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, limit[1]))
    try:
        refused = 0
        for n in range(30):
            try:
                await engine.write(Statement(FILL, {"k": f"{n}", "size": 10_000}))
            except UnavailableError as error:
                assert error.code == "store-unavailable"  # noqa: PT017 - some succeed
                refused += 1
            assert await engine.read(GET, {"k": "a"}) == [(0,)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert 0 < refused < 30
    await engine.write(add("later"))
    assert len(await keys(engine)) == 30 - refused + 2
