"""Routing conditions over messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidArgumentError
from muster.language.parser import parse_condition
from muster.language.routes import Message, parse

SYSTEM = {
    "contentType": "application/json; charset=utf-8",
    "contentEncoding": "UTF-8",
    "connectionDeviceId": "d1",
    "dt-dataschema": "dtmi:x;1",
}
BODY = b'{"temperature": 21.5, "a-b": 3, "a": {"b": [{"c": "x"}]}, "on": true}'
TWIN = {"deviceId": "d1", "tags": {"site": "a"}, "properties": {"desired": {"$version": 3}}}


def holds(condition: str, *, body: bytes = BODY, **system: str) -> bool:
    message = Message(
        {
            "Level": "critical",
            "count": "5",
            "a.b": "dotted",
            "mqtt-retain": "true",
            "x-1": "one",
            "a-b.c-d": "all",
        },
        SYSTEM | system,
        body,
        TWIN,
    )
    return parse(condition).matches(message)


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "true",
        "level = 'critical'",
        "LEVEL = 'critical' AND $connectiondeviceid = 'd1'",
        "a.b = 'dotted'",
        "AS_NUMBER(count) > 4",
        "$body.temperature > 20 AND $body.on",
        "$body.a.b[0].c = 'x'",
        "$dt-dataschema = 'dtmi:x;1'",
        "$twin.tags.site = 'a'",
        "$Twin.Properties.Desired.$version = 3",
        "starts_with(level, 'crit') AND NOT IS_DEFINED(other)",
        "IS_OBJECT($body)",
        "mqtt-retain = 'true'",
        "MQTT-Retain = 'true' AND NOT IS_DEFINED(mqtt-other)",
        "[[mqtt-retain]] = 'true'",
        "x-1 = 'one'",
        "a-b.c-d = 'all'",
        "$body.a-b = 3",
        "AS_NUMBER(count) - 1 = 4",
        "AS_NUMBER(count)-1 = 4",
        "$body.temperature - $body.a-b = 18.5",
    ],
)
def test_holds(condition):
    assert holds(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "false",
        "level",
        "count > 4",
        "$body.Temperature > 20",
        "other = 'x'",
        "$messageId = 'x'",
        "$twin.tags.none = 1",
    ],
)
def test_does_not_hold(condition):
    assert not holds(condition)


def test_the_body_must_say_what_it_is():
    condition = "$body.on = true"
    assert holds(condition)
    assert holds(condition, contentType="Application/JSON")
    assert holds(condition, contentEncoding="utf-16", body=BODY.decode().encode("utf-16"))
    assert not holds(condition, contentType="text/plain")
    assert not holds(condition, contentEncoding="")
    assert not holds(condition, contentEncoding="base64")
    assert not holds(condition, body=b"\xff not json")
    assert not holds(condition, contentEncoding="utf-16")
    assert not holds(condition, body=b"[" * 100_000)


def test_what_is_needed():
    assert (parse("$twin.tags.a = 1").needs_twin, parse("$twin.tags.a = 1").needs_body) == (
        True,
        False,
    )
    assert (parse("$body.a = 1").needs_twin, parse("$body.a = 1").needs_body) == (False, True)
    assert not parse("level = 'a'").needs_twin


def test_without_a_twin():
    assert not parse("IS_DEFINED($twin.tags)").matches(Message({}, {}, b""))


def test_a_name_with_a_hyphen_that_is_not_there_is_explained():
    holds, (reason,) = parse("count-1 > 3").why(Message({"count": "5"}, {}, b""))
    assert not holds
    assert "to subtract takes spaces around the hyphen" in reason.sentence


def test_errors():
    with pytest.raises(InvalidArgumentError, match="position 9"):
        parse("level = ")


def test_a_property_that_begins_with_a_dollar_sign():
    message = Message({"$own": "1", "$messageId": "2"}, {"messageId": "3"}, b"")
    assert parse("$own = '1'").matches(message)
    assert parse("$messageId = '3'").matches(message)


def test_why_it_is_true_or_not():
    route = parse("level = 'critical' AND $body.temperature > 80")
    outcome, reasons = route.why(Message({"level": "critical"}, {}, b"{}"))
    assert outcome is False
    assert [reason.condition for reason in reasons] == ["$body.temperature > 80"]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("a || b = 'xy'", True),
        ("'xyz' = a||b || 'z'", True),
        ("LENGTH(a || b) + 1 = 3", True),
        ("missing || a = 'x'", False),
    ],
)
def test_texts_are_joined(condition: str, holds: bool) -> None:  # noqa: FBT001 - of a table
    message = Message({"a": "x", "b": "y"}, {}, b"")
    assert parse(condition).matches(message) is holds


def test_texts_are_joined_in_routes_only() -> None:
    with pytest.raises(InvalidArgumentError, match="unexpected character"):
        parse_condition("tags.a || tags.b = 'x'")


NAMES = st.sampled_from(["a", "b", "c", "d"])
PROPERTIES = st.dictionaries(NAMES, st.one_of(st.none(), st.sampled_from(["x", "y", ""])))


@given(PROPERTIES, st.lists(NAMES, min_size=2, max_size=6), st.sampled_from(["x", "y", ""]))
def test_of_several_the_first_that_is_there_counts(properties, names, wanted):
    message = Message(properties, {}, b"")
    there = [properties[name] for name in names if name in properties]
    text = " ?? ".join(names)
    assert parse(f"({text}) = '{wanted}'", edge=True).matches(message) is (there[:1] == [wanted])
    assert parse(f"IS_DEFINED({text})", edge=True).matches(message) is bool(there)
    assert parse(f"IS_NULL({text})", edge=True).matches(message) is (there[:1] == [None])
    # However it is grouped.
    grouped = f"({names[0]} ?? ({' ?? '.join(names[1:])})) = '{wanted}'"
    assert parse(grouped, edge=True).matches(message) is (there[:1] == [wanted])


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("other = 'x' ?? true", True),
        ("level = 'critical' AND other = 'x' ?? true", True),
        ("level = 'low' AND other = 'x' ?? true", False),
        ("($body.none ?? $body.temperature) > 20", True),
        ("AS_NUMBER(other ?? '7') = 7", True),
        ("undefined ?? undefined", False),
    ],
)
def test_what_is_not_there_is_replaced_last(condition: str, holds: bool) -> None:  # noqa: FBT001 - of a table
    system = {"contentType": "application/json", "contentEncoding": "utf-8"}
    message = Message({"level": "critical"}, system, BODY)
    assert parse(condition, edge=True).matches(message) is holds


def test_why_something_was_replaced() -> None:
    _, (reason,) = parse("(a ?? 'x') = 'y'", edge=True).why(Message({}, {}, b""))
    assert reason.condition == "(a ?? 'x') = 'y'"


@pytest.mark.parametrize("condition", ["a ?? b", "twin_change_includes(properties.reported.a)"])
def test_only_edge_hubs_have_these(condition: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse(condition)
    with pytest.raises(InvalidArgumentError):
        parse_condition(condition)


STEPS = st.sampled_from(["a", "b", "c"])
PATCHES = st.dictionaries(
    STEPS,
    st.recursive(
        st.one_of(st.none(), st.integers(), st.booleans()),
        lambda inner: st.dictionaries(STEPS, inner, max_size=3),
        max_leaves=6,
    ),
)


@given(PATCHES, st.lists(STEPS, min_size=1, max_size=3))
def test_a_change_includes_what_was_set(patch, names):
    found = patch
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    body = json.dumps({"properties": {"reported": patch}}).encode()
    message = Message({}, {"contentType": "application/json", "contentEncoding": "utf-8"}, body)
    path = ".".join(["properties.reported", *names])
    text, includes = f"Twin_Change_Includes({path})", found is not None
    assert parse(text, edge=True, twin_changes=True).matches(message) is includes
    negated = parse(f"NOT {text}", edge=True, twin_changes=True)
    assert negated.matches(message) is not includes


@pytest.mark.parametrize(
    "path",
    [
        "",
        "123",
        "'properties.reported.a'",
        "properties",
        "properties.reported",
        "properties.reported123.a",
        "tags",
        "properties.reported.a[0].b",
        "properties.reported.a, b",
    ],
)
def test_what_a_change_cannot_include(path: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse(f"twin_change_includes({path})", edge=True, twin_changes=True)
