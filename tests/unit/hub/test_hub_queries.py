"""Every statement of the hub goes by an index: a hub holds a million devices."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import pytest

from muster.store.queries import load

if TYPE_CHECKING:
    from pathlib import Path

    from unit.hub.hub_parts import Parts

# Few rows, all of them wanted, once at start.
SMALL = {("hubs", "list"), ("hubs", "with_fault_injection"), ("hub_policies", "list")}
NOUNS = ("hubs", "hub_policies", "identities", "twins", "presence", "mqtt_sessions")
STATEMENTS = [(noun, name) for noun in NOUNS for name in load(noun).names()]


@pytest.fixture
def database(parts: Parts, tmp_path: Path) -> sqlite3.Connection:
    assert parts.hub
    return sqlite3.connect(tmp_path / "muster.db")


@pytest.mark.parametrize(("noun", "name"), STATEMENTS)
def test_no_statement_scans_a_table(database: sqlite3.Connection, noun: str, name: str) -> None:
    if (noun, name) in SMALL:
        return
    sql = load(noun)[name].sql
    params = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
    # Parameters (`json_each`) are no table, nor is what the statement itself has found.
    found = re.findall(r"\bRECURSIVE (\w+)", sql)
    no_tables = ("CONSTANT ROW", "VIRTUAL TABLE", *found)
    scans = [
        step
        for step in plan
        if step.startswith("SCAN") and not any(each in step for each in no_tables)
    ]
    assert not scans, plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
