"""Query files, and that every statement of the project suits the schema."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from importlib.resources import files

import pytest

from muster.store import migrations, queries

NOUNS = sorted(
    entry.name.removesuffix(".sql") for entry in files("muster.store").joinpath("sql").iterdir()
)


def test_statements_are_told_apart() -> None:
    found = queries.parse(
        "things",
        "-- About the file.\n-- name: get\n-- Reads one.\nSELECT 1;\n\n"
        "-- name: list scan\nSELECT x\n  FROM y\n",
    )
    assert list(found) == ["get", "list"]
    assert (found["get"].name, found["get"].sql, found["get"].scan) == (
        "things.get",
        "SELECT 1",
        False,
    )
    assert (found["list"].sql, found["list"].scan) == ("SELECT x\n  FROM y", True)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="names get twice"):
        queries.parse("things", "-- name: get\nSELECT 1\n-- name: get\nSELECT 2\n")


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        queries.load("settings")["nothing"]


@pytest.mark.parametrize("noun", NOUNS)
def test_every_statement_suits_the_schema(noun: str) -> None:
    loaded = queries.load(noun)
    assert loaded.names()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.apply(connection, migrations.bundled("edge_hub" if noun == "edge_hub" else ""))
        for name in loaded.names():
            sql = loaded[name].sql
            params = dict.fromkeys(re.findall(r":([a-z_]\w*)", sql))
            connection.execute(f"EXPLAIN {sql}", params)
