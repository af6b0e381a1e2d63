"""What conditions mean over one document."""

from __future__ import annotations

import pytest

from muster.language.evaluate import evaluate, matches
from muster.language.functions import BY_NAME, TABLE
from muster.language.parser import parse_condition
from muster.language.values import UNDEFINED

TWIN = {
    "deviceId": "gateway-01",
    "statusReason": None,
    "capabilities": {"iotEdge": True},
    "parentScopes": ["ms-azure-iot-edge://parent-1"],
    "tags": {
        "env": "prod",
        "on": True,
        "said": "true",
        "floor": 3,
        "list": [1, "a", True],
        "deep": {"x": {"y": 5}},
    },
    "properties": {
        "desired": {"mode": "fast", "$version": 7, "$metadata": {}},
        "reported": {"lastDesiredVersion": 7, "code": 200.0, "$version": 2},
    },
}


@pytest.mark.parametrize(
    "condition",
    [
        "true",
        "tags.env = 'prod'",
        "devices.tags.env != 'dev'",
        "tags.on",
        "tags.on = true",
        "NOT tags.on = false",
        "tags.floor = 3.0",
        "tags.floor >= 3 AND tags.floor < 0x4",
        "tags.env = 'dev' OR tags.floor = 3",
        "tags.missing = 1 OR true",
        "tags.env < 'prof'",
        "tags.env IN ['dev', 'prod']",
        "tags.env NIN ['dev', 'test', 5]",
        "tags.floor IN [null, 3]",
        "statusReason = null",
        "IS_NULL(statusReason)",
        "capabilities.iotedge = true",
        "properties.desired.$version = properties.reported.lastDesiredVersion",
        "properties.reported.code = 200",
        "IS_DEFINED(tags.deep.x.y) = true",
        "NOT IS_DEFINED(tags.missing)",
        "array_contains(parentScopes, 'ms-azure-iot-edge://parent-1')",
        "ARRAY_CONTAINS(tags.list, 1) AND NOT ARRAY_CONTAINS(tags.list, 'b')",
        "tags.list[1] = 'a'",
        "STARTSWITH(devices.deviceId, 'gate') AND endswith(deviceId, '01')",
        "CONTAINS(UPPER(deviceId), 'WAY')",
        "LENGTH(deviceId) = 10",
        "7 / 2 = 3.5 AND 7 % 4 = 3 AND -7 % 4 = -3 AND 2 + 2 * 3 = 8",
        "(tags.env = 'prod') = true",
    ],
)
def test_holds(condition):
    assert matches(parse_condition(condition), TWIN)


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        # A value of another kind neither is nor is not equal (hub-service.md 5.1).
        ("tags.said = true", UNDEFINED),
        ("tags.said != true", UNDEFINED),
        ("NOT tags.said = true", UNDEFINED),
        ("tags.floor = '3'", UNDEFINED),
        ("tags.on = 1", UNDEFINED),
        ("tags.missing = 'a'", UNDEFINED),
        ("NOT tags.missing = 'a'", UNDEFINED),
        ("tags.missing = undefined", UNDEFINED),
        ("tags.missing NIN ['a']", UNDEFINED),
        ("tags.floor NIN ['a']", UNDEFINED),
        ("tags.deep = tags.deep", UNDEFINED),
        ("tags.missing = 1 AND true", UNDEFINED),
        ("tags.missing = 1 AND false", False),
        ("tags.env AND true", UNDEFINED),
        ("tags.env.x = 1", UNDEFINED),
        ("Tags.Env = 'prod'", UNDEFINED),
        ("tags.list[7] = 1", UNDEFINED),
        ("1 / 0 = 1", UNDEFINED),
        ("'a' + 'b' = 'ab'", UNDEFINED),
        ("IS_STRING(tags.missing)", False),
        ("LOWER(tags.floor)", UNDEFINED),
        ("AS_NUMBER('1x')", UNDEFINED),
        ("AS_NUMBER(' -1.5e1 ')", -15.0),
        ("SUBSTRING('hello', 1, 3)", "ell"),
        ("SUBSTRING('hello', 3)", "lo"),
        ("SUBSTRING('hello', -1)", UNDEFINED),
        ("INDEX_OF('hello', 'l')", 2),
        ("INDEX_OF('hello', 'x')", -1),
        ("CONCAT('a', 'b', 'c')", "abc"),
        ("ABS(-2)", 2),
        ("SIGN(-2)", -1),
        ("FLOOR(-1.5)", -2),
        ("CEILING(-1.5)", -1),
        ("SQUARE(3)", 9),
        ("POWER(2, 10)", 1024),
        ("POWER(10, 999)", float("inf")),
        ("EXP(0)", 1),
        ("SQRT(16)", 4),
        ("SQRT(-1)", UNDEFINED),
        ("LOWER('ÄB')", "Äb"),
    ],
)
def test_values(condition, value):
    assert evaluate(parse_condition(condition), TWIN) == value


def test_every_function_is_reachable():
    assert {row.name for row in TABLE} <= BY_NAME.keys()
    assert all(row.signature.startswith(f"{row.name}(") for row in TABLE)
    assert BY_NAME["ARRAY_CONTAINS"].signature == "ARRAY_CONTAINS(array, value)"
    assert BY_NAME["ENDS_WITH"].name == "ENDSWITH"
    assert BY_NAME["SUBSTRING"].signature == "SUBSTRING(string, number[, number])"
    assert BY_NAME["CONCAT"].signature == "CONCAT(string, string, …)"
