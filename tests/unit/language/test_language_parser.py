"""Texts to trees and back, and what is said about texts that are none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_strategies import expressions, paths

from muster.errors import InvalidArgumentError
from muster.language import text as written
from muster.language.collections import DEVICES, JOBS, MODULES
from muster.language.lexer import MAX_LENGTH
from muster.language.parser import AGGREGATES, MAX_DEPTH, parse_condition, parse_query
from muster.language.tree import (
    TRUE,
    Aggregate,
    Arithmetic,
    Call,
    Comparison,
    Constant,
    Item,
    Logical,
    Membership,
    Not,
    Path,
    Query,
)
from muster.language.values import UNDEFINED


@contextlib.contextmanager
def too_deep_is_refused():
    """A tree may be deeper than what is read: its text is not what it was read from."""
    try:
        yield
    except InvalidArgumentError as error:
        if "inside each other" not in error.message:
            raise


APPLIED = (
    "select deviceId from devices.modules where moduleId = '$edgeAgent' and "
    "configurations.[[c12]].status = 'Applied'"
)
REPORTED = f"{APPLIED} and properties.desired.$version = properties.reported.lastDesiredVersion"


def path(*names: str | int) -> Path:
    return Path(names)


@pytest.mark.parametrize(
    "text",
    [
        "select * from devices",
        "select * from devices where capabilities.iotEdge = true",
        "select deviceId from devices where array_contains(parentScopes, 'ms-azure-iot-edge://a-1')",
        "SELECT deviceId FROM devices",
        "SELECT deviceId, deviceScope FROM devices",
        "select deviceId from devices where capabilities.iotEdge = true and (tags.env='prod')",
        APPLIED,
        f"{REPORTED} and properties.reported.lastDesiredStatus.code = 200",
        f"{REPORTED} and properties.reported.lastDesiredStatus.code != 200",
        "SELECT * FROM devices WHERE STARTSWITH(devices.deviceId,'x')",
        "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'j1'",
        "SELECT tags.a AS status, COUNT() AS numberOfDevices FROM devices GROUP BY tags.a",
        "SELECT LastActivityTime FROM devices WHERE status = 'enabled'",
    ],
)
def test_what_clients_send(text):
    query = parse_query(text)
    assert parse_query(written.query_text(query)) == query


def test_a_whole_query():
    assert parse_query(
        "select top 5 DeviceId as Name, tags.[[a b]].c, avg(tags.n), /* how many */ count() "
        "from devices where is_defined(tags.n) group by deviceid, tags.[[a b]].c"
    ) == Query(
        DEVICES,
        (
            Item(path("deviceId"), "Name"),
            Item(path("tags", "a b", "c"), "c"),
            Item(Aggregate("AVG", path("tags", "n")), "avg"),
            Item(Aggregate("COUNT", None), "count"),
        ),
        5,
        Call("IS_DEFINED", (path("tags", "n"),)),
        (path("deviceId"), path("tags", "a b", "c")),
    )


def test_collections():
    assert parse_query("SELECT * FROM devices").collection is DEVICES
    assert parse_query("SELECT * FROM Devices.Modules").collection is MODULES
    assert parse_query("SELECT * FROM devices.jobs").collection is JOBS
    assert parse_query("SELECT * FROM devices").condition == TRUE


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a OR b AND c", Logical("OR", (path("a"), Logical("AND", (path("b"), path("c")))))),
        ("NOT a AND b", Logical("AND", (Not(path("a")), path("b")))),
        ("a NOT b", Logical("AND", (path("a"), Not(path("b"))))),
        ("NOT a = 1", Not(Comparison("=", path("a"), Constant(1)))),
        ("a <> 0xfF", Comparison("!=", path("a"), Constant(255))),
        ("a = -5", Comparison("=", path("a"), Constant(-5))),
        ("a = 1.5e3", Comparison("=", path("a"), Constant(1500.0))),
        (
            "a - 1 * b >= 2",
            Comparison(
                ">=",
                Arithmetic("-", path("a"), Arithmetic("*", Constant(1), path("b"))),
                Constant(2),
            ),
        ),
        ("a - b - c", Arithmetic("-", Arithmetic("-", path("a"), path("b")), path("c"))),
        ("a IN ['x', 1, null]", Membership(path("a"), ("x", 1, None), False)),
        ("a nin [undefined]", Membership(path("a"), (UNDEFINED,), True)),
        ("a NOT IN [true]", Membership(path("a"), (True,), True)),
        (r"'it''s \'\"\\ \u00e4\n'", Constant("it's '\"\\ ä\n")),
        ('"say ""no"" it\'\'s"', Constant("say \"no\" it''s")),
        (r"'\ud83d\udca7'", Constant("💧")),
        ("[1, 'a']", Constant((1, "a"))),
        ("starts_with(a, 'x')", Call("STARTSWITH", (path("a"), Constant("x")))),
        ("DEVICES.DEVICEID", path("deviceId")),
        ("PROPERTIES.Desired.$Version", path("properties", "desired", "$version")),
        ("properties.desired.DeviceId", path("properties", "desired", "DeviceId")),
        ("tags.Status.order.[[group by]][2]", path("tags", "Status", "order", "group by", 2)),
        ("[[tags]].a", path("tags", "a")),
        (
            "configurations.[[my-config.v2]].status",
            path("configurations", "my-config.v2", "status"),
        ),
    ],
)
def test_conditions(text, tree):
    assert parse_condition(text) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The query is empty."),
        ("DELETE FROM devices", "Syntax error at position 1: expected SELECT, found 'DELETE'."),
        ("SELECT *", "Syntax error at position 9: expected FROM, found the end."),
        (
            "SELECT * FROM enrollments",
            (
                "Syntax error at position 15: expected one of devices, devices.modules, "
                "devices.jobs, found 'enrollments'."
            ),
        ),
        (
            "SELECT * FROM devices WHERE",
            "Syntax error at position 28: expected a value, found the end.",
        ),
        ("SELECT * FROM devices ORDER BY a", "Syntax error at position 23: unexpected 'ORDER'."),
        (
            "SELECT * FROM devices WHERE a = 'x",
            "Syntax error at position 33: a text in quotation marks has no end.",
        ),
        (
            "SELECT * FROM devices WHERE a ; b",
            "Syntax error at position 31: unexpected character ';'.",
        ),
        ("SELECT * FROM devices WHERE a = 1x", "Syntax error at position 33: '1x' is no number."),
        (
            "SELECT * FROM devices WHERE f(a)",
            "Syntax error at position 29: there is no function 'f'.",
        ),
        (
            "SELECT * FROM devices WHERE startswith(a)",
            "Syntax error at position 29: it is called as STARTSWITH(string, string).",
        ),
        (
            "SELECT * FROM devices WHERE a IN 5",
            "Syntax error at position 34: expected '[', found '5'.",
        ),
        ("SELECT * FROM devices WHERE a = 1 = 2", "Syntax error at position 35: unexpected '='."),
        (
            "SELECT * FROM devices WHERE a /* b",
            "Syntax error at position 31: a comment has no end.",
        ),
        (
            r"SELECT * FROM devices WHERE a = '\x'",
            r"Syntax error at position 34: '\x' is no escape.",
        ),
        (
            r"SELECT * FROM devices WHERE a = '\ud800'",
            "Syntax error at position 33: the text has half of a surrogate pair.",
        ),
        (
            "SELECT * FROM devices WHERE [[a",
            "Syntax error at position 29: a name in [[ ]] has no end.",
        ),
        (
            'SELECT [[a"b]] FROM devices',
            (
                "Syntax error at position 8: a name has a quotation mark, a backslash or a control "
                "character."
            ),
        ),
        ("SELECT TOP 0 * FROM devices", "Syntax error at position 12: TOP must be at least 1."),
        (
            "SELECT TOP 'a' * FROM devices",
            "Syntax error at position 12: expected a whole number behind TOP, found ''a''.",
        ),
        (
            "SELECT a FROM devices.jobs",
            "Syntax error at position 1: of devices.jobs only * can be selected.",
        ),
        (
            "SELECT a, COUNT() FROM devices",
            "Syntax error at position 1: 'a' must be in GROUP BY or inside an aggregate.",
        ),
        (
            "SELECT * FROM devices GROUP BY a",
            "Syntax error at position 1: SELECT * cannot be grouped.",
        ),
        (
            "SELECT a AS where FROM devices",
            "Syntax error at position 13: expected a name behind AS, found 'where'.",
        ),
        (
            "SELECT * FROM devices WHERE a = 1e999",
            "Syntax error at position 33: the number is too large.",
        ),
    ],
)
def test_errors_name_the_position(text, message):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_query(text)
    assert caught.value.message == message
    assert caught.value.code == "invalid-query"


def test_limits():
    parse_condition("a" * MAX_LENGTH)
    with pytest.raises(InvalidArgumentError, match="8193 characters, more than the 8192"):
        parse_condition("a" * (MAX_LENGTH + 1))
    parse_condition("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)
    for opened in ("(", "NOT ", "-", "lower("):
        with pytest.raises(InvalidArgumentError, match="inside each other"):
            parse_condition(opened * (MAX_DEPTH + 1) + "a")
    with pytest.raises(InvalidArgumentError, match="inside each other"):
        parse_condition("1" + " + 1" * (MAX_DEPTH + 1))
    parse_condition("1" + "0" * 299)


@given(expressions)
def test_round_trip(tree):
    with too_deep_is_refused():
        assert parse_condition(written.text(tree)) == tree


_names = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='"\\[]'),
    min_size=1,
)


@given(
    st.lists(st.one_of(_names, st.integers(0, 99)), max_size=3).map(
        lambda names: Path(("tags", *names))
    )
)
def test_names_of_any_kind(found):
    assert parse_condition(written.text(found)) == found


@given(
    st.builds(
        lambda top, items, condition: Query(DEVICES, tuple(items), top, condition, ()),
        st.one_of(st.none(), st.integers(1, 1000)),
        st.lists(st.builds(Item, paths, st.sampled_from(["a", "from", "a b"]))),
        expressions,
    )
)
def test_queries_round_trip(query):
    with too_deep_is_refused():
        assert parse_query(written.query_text(query)) == query


_WORDS = [
    *(
        "SELECT",
        "FROM",
        "WHERE",
        "AND",
        "OR",
        "NOT",
        "IN",
        "NIN",
        "TOP",
        "GROUP BY",
        "AS",
        "devices",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "[[",
        "]]",
        ",",
        "*",
        "=",
        "<",
        "'",
        '"',
        "\\",
        ".",
        "-",
        "/*",
        "*/",
        "$",
    ),
    *(
        "0x",
        "1e9",
        "5",
        "tags.a",
        "COUNT(",
        "is_defined(",
        "null",
        "undefined",
        "\ud800",
        "\x00",
        "ä",
    ),
]


@settings(max_examples=500)
@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from(_WORDS)).map(" ".join),
        st.lists(st.sampled_from(_WORDS)).map("".join),
    )
)
def test_garbage_is_refused_or_read(garbage):
    codes = set()
    for read, text in (
        (parse_query, garbage),
        (parse_query, f"SELECT * FROM devices WHERE {garbage}"),
        (parse_condition, garbage),
    ):
        try:
            read(text)
        except InvalidArgumentError as error:
            codes.add(error.code)
    assert codes <= {"invalid-query"}


def test_aggregates_are_names_elsewhere():
    for word in AGGREGATES:
        assert parse_condition(f"{word} = 1") == Comparison("=", path(word), Constant(1))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("tags.cold-room = 'yes'", "tags.[[cold-room]]"),
        ("NOT IS_DEFINED(tags.cold-room.door)", "tags.[[cold-room]].door"),
        ("properties.reported.a.b-c > 3", "properties.reported.a.[[b-c]]"),
        ("cold-room = 1", "[[cold-room]]"),
    ],
)
def test_a_name_with_a_hyphen_is_told_to_stand_in_brackets(text: str, meant: str) -> None:
    for wrong in (text, f"SELECT * FROM devices WHERE {text}"):
        read = parse_query if wrong.startswith("SELECT") else parse_condition
        with pytest.raises(InvalidArgumentError) as caught:
            read(wrong)
        assert f"stands in brackets: {meant}" in caught.value.message


@pytest.mark.parametrize("text", ["tags.a-version > 3", "tags.a - tags.b > 3", "tags.a - b > 1"])
def test_what_can_be_a_subtraction_is_one(text: str) -> None:
    assert "-" in str(parse_condition(text))
