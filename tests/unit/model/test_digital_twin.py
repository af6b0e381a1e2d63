"""Digital twins: the view of a twin, and JSON patches of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidArgumentError
from muster.model.digital_twin import PatchOperation, desired_patch, view
from muster.model.merge_patches import merge
from muster.model.twin import JsonObject

AT, LATER = "2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"


def stamps(document: JsonObject, at: str, version: int | None = None) -> JsonObject:
    stamp: JsonObject = {"$lastUpdated": at}
    if version is not None:
        stamp["$lastUpdatedVersion"] = version
    for name, value in document.items():
        inner = value if isinstance(value, dict) else {}
        stamp[name] = stamps(inner, at, version)
    return stamp


def properties(desired: JsonObject, reported: JsonObject) -> JsonObject:
    return {
        "desired": {**desired, "$metadata": stamps(desired, AT, 4), "$version": 4},
        "reported": {**reported, "$metadata": stamps(reported, LATER), "$version": 9},
    }


def test_an_empty_twin() -> None:
    assert view("d1", "", properties({}, {})) == {"$dtId": "d1", "$metadata": {"$model": ""}}


def test_properties_acknowledgements_and_components() -> None:
    ack = {"value": 20.4, "ac": 200, "av": 4, "ad": "done"}
    twin = properties(
        {"wished": 1, "thermostat1": {"__t": "c", "target": 20.4}},
        {
            "serial": "x1",
            "object": {"value": 1},
            "thermostat1": {"__t": "c", "target": ack, "max": 25.3},
        },
    )
    assert view("d1", "dtmi:com:x;1", twin) == {
        "$dtId": "d1",
        "serial": "x1",
        "object": {"value": 1},
        "thermostat1": {
            "target": 20.4,
            "max": 25.3,
            "$metadata": {
                "target": {
                    "desiredValue": 20.4,
                    "desiredVersion": 4,
                    "ackVersion": 4,
                    "ackCode": 200,
                    "ackDescription": "done",
                    "lastUpdateTime": LATER,
                },
                "max": {"lastUpdateTime": LATER},
            },
        },
        "$metadata": {
            "$model": "dtmi:com:x;1",
            "wished": {"desiredValue": 1, "desiredVersion": 4, "lastUpdateTime": AT},
            "serial": {"lastUpdateTime": LATER},
            "object": {"lastUpdateTime": LATER},
        },
    }


PATCHES: dict[str, tuple[list[PatchOperation], JsonObject]] = {
    "a property": ([PatchOperation("add", "/rate", 5)], {"rate": 5}),
    "escapes": ([PatchOperation("replace", "/a~1b~0c", [1])], {"a/b~c": [1]}),
    "remove": ([PatchOperation("remove", "/rate")], {"rate": None}),
    "of a component": (
        [PatchOperation("replace", "/new/target", 21), PatchOperation("remove", "/new/old")],
        {"new": {"__t": "c", "target": 21, "old": None}},
    ),
    "of a known component": (
        [PatchOperation("replace", "/known/target", 21)],
        {"known": {"__t": "c", "target": 21}},
    ),
    "in an object": ([PatchOperation("add", "/plain/a", 2)], {"plain": {"a": 2}}),
    "in a reported object": ([PatchOperation("add", "/told/a", 2)], {"told": {"a": 2}}),
    "a component": (
        [PatchOperation("add", "/c1", {"target": 1, "$metadata": {}})],
        {"c1": {"target": 1, "__t": "c"}},
    ),
    "an object in the place of another": (
        [PatchOperation("replace", "/plain", {"b": {"x": 1}, "c": 3})],
        {"plain": {"a": None, "b": {"x": 1, "y": None}, "c": 3}},
    ),
    "the last one wins": (
        [PatchOperation("remove", "/known"), PatchOperation("add", "/known/target", 1)],
        {"known": {"__t": "c", "target": 1}},
    ),
}
TWIN = properties(
    {"rate": 1, "plain": {"a": 1, "b": {"y": 2}}, "known": {"__t": "c", "target": 20}},
    {"told": {"b": 1}},
)


@pytest.mark.parametrize("case", PATCHES)
def test_patches(case: str) -> None:
    operations, expected = PATCHES[case]
    assert desired_patch(operations, TWIN) == expected


@pytest.mark.parametrize(
    "operations",
    [
        [],
        [PatchOperation("move", "/a", 1)],
        [PatchOperation("add", "/a")],
        [PatchOperation("add", "/a", None)],
        [PatchOperation("add", "a", 1)],
        [PatchOperation("add", "", {})],
        [PatchOperation("add", "/", 1)],
        [PatchOperation("add", "/$metadata/$model", "x")],
    ],
)
def test_what_is_no_patch(operations: list[PatchOperation]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        desired_patch(operations, TWIN)
    assert caught.value.code == "invalid-json-patch"


documents: Any = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


@given(documents, documents)
def test_replacing_leaves_nothing_behind(old: Any, new: Any) -> None:
    twin = properties({"p": old}, {})
    patch = desired_patch([PatchOperation("replace", "/p", new)], twin)
    assert merge({"p": old}, patch) == {"p": new}
