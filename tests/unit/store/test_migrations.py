"""Migrations: each once, whole or not at all, and never on a database that is too new."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from muster.errors import UnavailableError
from muster.store import migrations
from muster.store.migrations import Migration
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = [
    Migration(1, "first", "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1);"),
    Migration(2, "second", "CREATE TABLE b (y TEXT)"),
    Migration(3, "third", "-- breaks older versions\nDROP TABLE a;"),
]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as made:
        yield made


def versions(connection: sqlite3.Connection) -> tuple[int, int]:
    return connection.execute("SELECT version, compat_version FROM schema_version").fetchone()


def tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {row[0] for row in rows} - {"schema_version"}


def test_a_fresh_database_gets_them_all(connection: sqlite3.Connection) -> None:
    assert migrations.apply(connection, STEPS) == 3
    assert versions(connection) == (3, 3)
    assert tables(connection) == {"b"}
    assert migrations.apply(connection, STEPS) == 0


def test_an_older_database_gets_the_rest(connection: sqlite3.Connection) -> None:
    assert migrations.apply(connection, STEPS[:1]) == 1
    assert versions(connection) == (1, 0)
    assert migrations.apply(connection, STEPS) == 2
    assert tables(connection) == {"b"}


def test_a_step_that_fails_leaves_nothing(connection: sqlite3.Connection) -> None:
    bad = Migration(2, "bad", "CREATE TABLE c (z); INSERT INTO c VALUES (1); INSERT INTO d DEFAULT")
    with pytest.raises(sqlite3.OperationalError):
        migrations.apply(connection, [STEPS[0], bad])
    assert not connection.in_transaction
    assert tables(connection) == {"a"}
    assert versions(connection) == (1, 0)
    assert migrations.apply(connection, STEPS) == 2


def test_a_step_that_breaks_a_rule_half_way_leaves_nothing(connection: sqlite3.Connection) -> None:
    bad = Migration(2, "bad", "CREATE TABLE c (z UNIQUE); INSERT INTO c VALUES (1), (1);")
    with pytest.raises(sqlite3.IntegrityError):
        migrations.apply(connection, [STEPS[0], bad])
    assert tables(connection) == {"a"}


def test_a_newer_database_that_allows_it_is_used(connection: sqlite3.Connection) -> None:
    migrations.apply(connection, STEPS[:2])
    assert migrations.apply(connection, STEPS[:1]) == 0
    assert versions(connection) == (2, 0)


def test_a_database_that_is_too_new_is_refused(connection: sqlite3.Connection) -> None:
    migrations.apply(connection, STEPS)
    with pytest.raises(UnavailableError, match=r"schema version 3 .* at least 3; this one knows 2"):
        migrations.apply(connection, STEPS[:2])
    assert versions(connection) == (3, 3)


async def test_the_engine_refuses_a_database_that_is_too_new(tmp_path: Path) -> None:
    path = tmp_path / "muster.db"
    await (await SqliteEngine.open(path)).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 900, compat_version = 900")
    with pytest.raises(UnavailableError) as caught:
        await SqliteEngine.open(path)
    assert caught.value.code == "store-too-new"


def test_the_bundled_ones_apply(connection: sqlite3.Connection) -> None:
    steps = migrations.bundled()
    assert migrations.apply(connection) == len(steps)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert versions(connection)[0] == len(steps)
