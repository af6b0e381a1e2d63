"""SQL finds exactly the twins for which the plain evaluator says true, on a real SQLite."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_strategies import NAMES, NUMBERS, TEXTS, expressions, tags

from muster.errors import InvalidArgumentError
from muster.language.evaluate import matches, predicate
from muster.language.parser import MAX_DEPTH, parse_condition
from muster.language.sql import Document, Scalar, Single, compile_condition
from muster.language.values import Kind

SCHEMA = {
    ("deviceId",): Scalar("t", "t.device_id", Kind.STRING),
    ("status",): Scalar("t", "CASE WHEN t.enabled THEN 'enabled' ELSE 'disabled' END", Kind.STRING),
    ("statusReason",): Scalar("t", "t.reason", Kind.STRING, null=True),
    ("capabilities", "iotEdge"): Scalar("t", "t.edge", Kind.BOOLEAN),
    ("parentScopes",): Single("t", "t.parent"),
    ("deviceScope",): Scalar("t", "t.parent", Kind.STRING),
    ("version",): Scalar("t", "t.version", Kind.NUMBER),
    ("tags",): Document("t", "tags"),
}


def store(documents: list[dict]) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (device_id, enabled, reason, edge, parent, version, tags)")
    database.executemany(
        "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                each["deviceId"],
                each["status"] == "enabled",
                each["statusReason"],
                each["capabilities"]["iotEdge"],
                each.get("deviceScope"),
                each["version"],
                json.dumps(each["tags"], ensure_ascii=False),
            )
            for each in documents
        ],
    )
    return database


def twin(number: int, tags: dict, **members) -> dict:
    scope = members.pop("scope", None)
    return {
        "deviceId": f"d{number}",
        "status": "enabled" if members.get("enabled", True) else "disabled",
        "statusReason": members.get("reason"),
        "capabilities": {"iotEdge": members.get("edge", False)},
        "parentScopes": [scope] if scope else [],
        **({"deviceScope": scope} if scope else {}),
        "version": number,
        "tags": tags,
    }


def selected(condition, documents: list[dict]) -> list[str]:
    with contextlib.closing(store(documents)) as database:
        return chosen(condition, database)


def chosen(condition, database: sqlite3.Connection) -> list[str]:
    compiled = compile_condition(condition, SCHEMA)
    sql = f"SELECT device_id FROM t WHERE {compiled.sql}"
    return [row[0] for row in database.execute(sql, compiled.params)]


def many_twins() -> list[dict]:
    """Twins among which most conditions hold for some and not for others."""
    chance = random.Random(7)
    values = [*TEXTS, *NUMBERS, True, False, [], ["a", 1, True], {"a": 1}, {"b": {"a": "a"}}]
    return [
        twin(
            number,
            {name: chance.choice(values) for name in NAMES if chance.random() < 0.8},
            enabled=chance.random() < 0.5,
            edge=chance.random() < 0.5,
            reason=chance.choice([None, "a", "ab"]),
            scope=chance.choice([None, "a", "abc"]),
        )
        for number in range(150)
    ]


MANY = many_twins()


@pytest.fixture(scope="module")
def database():
    with contextlib.closing(store(MANY)) as database:
        yield database


@settings(max_examples=500)
@given(condition=expressions)
def test_sql_selects_what_the_evaluator_says(database, condition):
    holds = predicate(condition)
    assert chosen(condition, database) == [each["deviceId"] for each in MANY if holds(each)]


@settings(max_examples=200)
@given(expressions, st.builds(twin, st.integers(0, 9), tags))
def test_sql_sees_values_of_any_shape(condition, document):
    expected = [document["deviceId"]] if matches(condition, document) else []
    assert selected(condition, [document]) == expected


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("tags.site = 'a'", """json_extract(tags, '$."site"')"""),
        ("tags.on = true AND status = 'enabled'", """json_extract(tags, '$."on"')"""),
        ("5 = tags.n", """json_extract(tags, '$."n"')"""),
        ("deviceId = 'd1'", "device_id"),
        ("array_contains(parentScopes, 'x')", "parent"),
    ],
)
def test_lookups_serve_an_index(text, expression):
    compiled = compile_condition(parse_condition(text), SCHEMA)
    assert [each.expression for each in compiled.lookups] == [expression]
    with contextlib.closing(store([])) as database:
        database.execute(f"CREATE INDEX i ON t ({expression})")
        ((*_, plan),) = database.execute(
            f"EXPLAIN QUERY PLAN SELECT * FROM t INDEXED BY i WHERE {compiled.sql}", compiled.params
        ).fetchall()
    assert "SEARCH t USING INDEX i" in plan


@pytest.mark.parametrize(
    "text", ["tags.a = 'x' OR tags.b = 'y'", "NOT tags.a = 'x'", "tags.a > 1", "tags.a = null"]
)
def test_no_lookup_where_matches_may_differ(text):
    assert compile_condition(parse_condition(text), SCHEMA).lookups == ()


def test_the_longest_condition_is_no_problem():
    text = "a=1 OR " * 1000 + "tags.b = 'x'"
    assert selected(parse_condition(text), [twin(1, {"b": "x"})]) == ["d1"]


@pytest.mark.parametrize("opened", ["(", "NOT (", "LOWER(", "tags.a + ("])
def test_the_deepest_condition_is_no_problem(opened):
    depth = MAX_DEPTH // (opened.count("(") + opened.startswith("NOT")) - 1
    text = f"{opened * depth}tags.a{')' * depth}"
    assert selected(parse_condition(text), [twin(1, {"a": True})]) in ([], ["d1"])


def test_conditions_that_explode_are_refused():
    text = "(" * 20 + "tags.a = tags.b" + ") = (tags.a = tags.b)" * 20
    with pytest.raises(InvalidArgumentError, match="too complex"):
        selected(parse_condition(text), [])
