"""Base and layered deployments, merged configurations, and what they make of a twin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.model.configuration import Configuration, Content, settings
from muster.model.layering import (
    Status,
    deployment_plan,
    overlay,
    twin_plan,
    wanted,
)

DESIRED = "properties.desired"
APPLIED, TARGETED = Status.APPLIED, Status.TARGETED
AGENT: dict[str, Any] = {
    "schemaVersion": "1.1",
    "runtime": {"type": "docker"},
    "systemModules": {"edgeAgent": {}},
    "modules": {"a": {"settings": {"image": "a:1"}}},
}


def make(name: str, content: Content, priority: int = 0, created_at: float = 0.0) -> Configuration:
    return Configuration(
        id=name,
        schema_version="2.0",
        labels=None,
        content=content,
        target_condition="*",
        priority=priority,
        metrics={},
        created_at=created_at,
        updated_at=created_at,
    )


def base(name: str, image: str, priority: int = 0, created_at: float = 0.0) -> Configuration:
    agent = {**AGENT, "modules": {"a": {"settings": {"image": image}}}}
    modules = {"$edgeAgent": {DESIRED: agent}, "$edgeHub": {DESIRED: {"routes": {"r": "x"}}}}
    return make(name, Content(modules_content=modules), priority, created_at)


def layer(name: str, modules: dict[str, Any], priority: int) -> Configuration:
    return make(name, Content(modules_content={"$edgeAgent": {}, **modules}), priority)


def device(name: str, paths: dict[str, Any], priority: int = 0) -> Configuration:
    return make(name, Content(device_content=paths), priority)


def test_the_highest_base_wins_and_of_equals_the_newest() -> None:
    plan = deployment_plan([base("a", "a:1", 1, 1), base("c", "a:3", 2, 1), base("b", "a:2", 2, 5)])
    assert plan.statuses == {"a": TARGETED, "b": APPLIED, "c": TARGETED}
    assert plan.settings["$edgeAgent"][()]["modules"]["a"]["settings"]["image"] == "a:2"


def test_layers_above_the_base_are_laid_over_it_the_higher_last() -> None:
    low = layer("low", {"$edgeAgent": {f"{DESIRED}.modules.b": {"settings": {"image": "b:1"}}}}, 2)
    high = layer(
        "high",
        {
            "$edgeAgent": {f"{DESIRED}.modules.b": {"settings": {"image": "b:2"}}},
            "$edgeHub": {f"{DESIRED}.routes.s": "y"},
            "b": {f"{DESIRED}.limits": {"x": 1}},
        },
        3,
    )
    below = layer("below", {"$edgeAgent": {f"{DESIRED}.modules.z": {"settings": {}}}}, 1)
    plan = deployment_plan([high, base("base", "a:1", 1), low, below])
    assert plan.statuses == {"base": APPLIED, "low": APPLIED, "high": APPLIED, "below": TARGETED}
    assert plan.settings["$edgeAgent"][()]["modules"] == {
        "a": {"settings": {"image": "a:1"}},
        "b": {"settings": {"image": "b:2"}},
    }
    assert plan.settings["$edgeHub"] == {(): {"routes": {"r": "x", "s": "y"}}}
    assert plan.settings["b"] == {("limits",): {"x": 1}}


def test_a_whole_section_in_a_layer_replaces_the_one_of_the_base() -> None:
    whole = layer("whole", {"$edgeHub": {DESIRED: {"routes": {"only": "z"}}}}, 5)
    plan = deployment_plan([base("base", "a:1"), whole])
    assert plan.settings["$edgeHub"] == {(): {"routes": {"only": "z"}}}
    # It says nothing about the agent, so it is targeted there, not applied (edge.md 9.2).
    assert plan.statuses["whole"] is TARGETED


def test_layers_alone_apply_nothing() -> None:
    plan = deployment_plan([layer("l", {"$edgeAgent": {f"{DESIRED}.modules.b": {}}}, 5)])
    assert (plan.statuses, plan.settings, plan.applied) == ({"l": TARGETED}, {}, False)


def test_configurations_of_a_twin_are_merged_path_by_path() -> None:
    low = device("low", {f"{DESIRED}.a": {"x": 1, "y": 1}, f"{DESIRED}.b": 1}, 1)
    high = device("high", {f"{DESIRED}.a.x": 2, f"{DESIRED}.c": 3}, 2)
    lost = device("lost", {f"{DESIRED}.c": 9}, 0)
    plan = twin_plan([high, lost, low])
    assert plan.settings == {"": {("a",): {"x": 2, "y": 1}, ("b",): 1, ("c",): 3}}
    assert plan.statuses == {"low": APPLIED, "high": APPLIED, "lost": TARGETED}
    assert twin_plan([]).settings == {}


@pytest.mark.parametrize(
    ("current", "goal", "left", "expected"),
    [
        ({"a": 1, "b": 2}, {("b",): 3}, [], {"a": 1, "b": 3}),
        ({"a": {"x": 1, "y": 2}}, {("a", "x"): {"n": 1}}, [], {"a": {"x": {"n": 1}, "y": 2}}),
        ({"a": 5}, {("a", "x"): 1}, [], {"a": {"x": 1}}),
        ({"a": 1, "b": {"c": 1, "d": 2}}, {}, [("a",), ("b", "c"), ("z", "z")], {"b": {"d": 2}}),
        ({"a": 1}, {(): {"b": {"c": None}, "$version": 4}}, [], {"b": {}}),
        ({"a": 1, "b": 2}, {("a",): None}, [], {"b": 2}),
    ],
)
def test_what_a_twin_should_have(
    current: dict[str, Any], goal: Any, left: Any, expected: dict[str, Any]
) -> None:
    before = repr(current)
    assert wanted(current, goal, left) == expected
    assert repr(current) == before


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.integers(-3, 3) | st.booleans() | st.text(max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)
GOALS = st.dictionaries(PATHS, VALUES, max_size=4)


@given(DOCUMENTS, GOALS, GOALS)
@example({"b": {"a": 0, "b": 0}}, {("b",): 0}, {("b", "a"): {}})
def test_laid_over_each_other_is_one_after_the_other(current: Any, low: Any, high: Any) -> None:
    low, high = overlay({}, low), overlay({}, high)
    together = wanted(current, overlay(low, high), [])
    assert together == wanted(wanted(current, low, []), high, [])


@given(GOALS, GOALS)
def test_no_path_of_an_overlay_leads_to_another(low: Any, high: Any) -> None:
    paths = list(overlay(overlay({}, low), high))
    for one in paths:
        assert not any(other != one and other[: len(one)] == one for other in paths)


def test_paths_begin_with_the_desired_properties() -> None:
    assert settings({f"{DESIRED}.a.b": 1, DESIRED: {"x": 1}}, "here") == {
        ("a", "b"): 1,
        (): {"x": 1},
    }
