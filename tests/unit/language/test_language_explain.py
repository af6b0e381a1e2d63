"""Why a condition does not hold, for people."""

from __future__ import annotations

import pytest

from muster.language.explain import why
from muster.language.parser import parse_condition
from muster.language.values import Kind

TWIN = {"deviceId": "d1", "tags": {"env": "prod", "on": "true", "n": 5, "deep": {"x": 1}}}


@pytest.mark.parametrize(
    ("condition", "holds", "sentences"),
    [
        (
            "tags.env = 'prod'",
            True,
            ["tags.env = 'prod' is true: tags.env is the string \"prod\"."],
        ),
        (
            "tags.env = 'dev'",
            False,
            ["tags.env = 'dev' is false: tags.env is the string \"prod\"."],
        ),
        (
            "tags.on = true",
            False,
            [
                (
                    'tags.on = true can be neither true nor false: tags.on is the string "true", '
                    "not a boolean."
                )
            ],
        ),
        (
            "tags.env = 'prod' AND tags.n > 7 AND tags.x = 1",
            False,
            [
                "tags.n > 7 is false: tags.n is the number 5.",
                "tags.x = 1 can be neither true nor false: tags.x is not there.",
            ],
        ),
        ("tags.n = 1 OR tags.n = 5", True, ["tags.n = 5 is true: tags.n is the number 5."]),
        (
            "NOT (tags.n = 5 OR tags.n = 6)",
            False,
            ["tags.n = 5 is true: tags.n is the number 5."],
        ),
        (
            "tags.deep IN ['a', 1]",
            False,
            [
                (
                    "tags.deep IN ['a', 1] can be neither true nor false: tags.deep is an object "
                    '{"x": 1}, not a number or string.'
                )
            ],
        ),
        (
            "tags.env",
            False,
            [
                (
                    'tags.env can be neither true nor false: tags.env is the string "prod", '
                    "not a boolean."
                )
            ],
        ),
        (
            "STARTSWITH(tags.n, 'a')",
            False,
            [
                (
                    "STARTSWITH(tags.n, 'a') can be neither true nor false: tags.n is the number "
                    "5, which this function does not take."
                )
            ],
        ),
        ("false", False, ["false is false."]),
    ],
)
def test_why(condition, holds, sentences):
    outcome, reasons = why(parse_condition(condition), TWIN)
    assert outcome is holds
    assert [reason.sentence for reason in reasons] == sentences


def test_what_was_found():
    _, (reason,) = why(parse_condition("tags.env = tags.missing"), TWIN)
    assert reason.outcome is None
    assert [(each.path, each.kind, each.value) for each in reason.found] == [
        ("tags.env", Kind.STRING, "prod"),
        ("tags.missing", Kind.UNDEFINED, None),
    ]


def test_long_values_are_cut():
    _, (reason,) = why(parse_condition("tags.env = 'x'"), {"tags": {"env": "y" * 1000}})
    assert len(reason.sentence) < 200
