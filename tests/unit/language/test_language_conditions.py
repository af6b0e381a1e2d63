"""Target conditions of deployments, conditions of jobs."""

from __future__ import annotations

import pytest

from muster.errors import InvalidArgumentError
from muster.language.collections import DEVICES, MODULES
from muster.language.conditions import parse_job, parse_target
from muster.language.tree import TRUE


def test_targets():
    found = parse_target("tags.env='prod' AND NOT tags.a='b'")
    assert found is not None
    assert found.collection is DEVICES
    assert found.holds({"tags": {"env": "prod", "a": "c"}})
    assert not found.holds({"tags": {"env": "prod", "a": "b"}})
    everything = parse_target(" * ")
    assert everything is not None
    assert everything.expression == TRUE
    assert parse_target("  ") is None


def test_targets_of_modules():
    found = parse_target("from devices.modules where moduleId = 'm1'", MODULES)
    assert found is not None
    assert found.collection is MODULES
    assert found.holds({"moduleId": "m1"})
    assert parse_target("", MODULES) is None


@pytest.mark.parametrize(
    ("text", "collection", "message"),
    [
        (
            "tags.a =",
            DEVICES,
            "Target condition: Syntax error at position 9: expected a value, found the end.",
        ),
        (
            "FROM devices.modules WHERE a = 1",
            DEVICES,
            "Target condition: Devices are targeted, not modules: leave out FROM and WHERE.",
        ),
        (
            "tags.a = 1",
            MODULES,
            "Target condition: It must begin with 'FROM devices.modules WHERE'.",
        ),
        ("*", MODULES, "Target condition: It must begin with 'FROM devices.modules WHERE'."),
        (
            "FROM devices.jobs WHERE a = 1",
            DEVICES,
            "Target condition: Syntax error at position 1: expected 'FROM devices.modules WHERE'.",
        ),
        (
            "FROM",
            DEVICES,
            "Target condition: Syntax error at position 1: expected 'FROM devices.modules WHERE'.",
        ),
    ],
)
def test_bad_targets(text, collection, message):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_target(text, collection)
    assert caught.value.message == message
    assert caught.value.code == "invalid-target-condition"


def test_jobs():
    assert parse_job("*").expression == TRUE
    assert parse_job("FROM devices.modules WHERE moduleId = 'm'").collection is MODULES
    assert parse_job("FROM devices WHERE true").collection is DEVICES
    with pytest.raises(InvalidArgumentError) as caught:
        parse_job("")
    assert caught.value.code == "invalid-query"


def test_names_that_no_twin_has():
    assert parse_job("tag.env = 'a' AND tags.x = 1 OR moduleId = 'm'").unknown_names == [
        "moduleId",
        "tag",
    ]
