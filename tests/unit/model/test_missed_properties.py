"""What a client missed brings it exactly to where the twin is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muster.model import twin as twins
from muster.model.merge_patches import merge
from muster.model.twin_catch_up import NOTHING, missed, removed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = st.sampled_from("abc")
VALUES = st.one_of(st.integers(0, 3), st.just([1]), st.booleans())
DOCUMENTS = st.recursive(
    VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
PATCHES = st.dictionaries(
    KEYS,
    st.recursive(
        st.one_of(VALUES, st.none()),
        lambda inner: st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@given(
    st.lists(st.tuples(st.booleans(), PATCHES), min_size=1, max_size=8),
    st.integers(0, 8),
)
def test_a_client_of_any_version_gets_where_the_twin_is(
    writes: list[tuple[bool, dict[str, Any]]], seen: int
) -> None:
    twin = twins.new(None, {"a": {"b": 1, "c": {"a": 2}}}, NOW)
    history = {twin.desired.version: twin.desired.properties}
    gone: dict[tuple[str, ...], int] = {}
    for replace, patch in writes:
        after = twins.update(twin, NOW, desired=patch, replace=replace)
        for path in removed(twin.desired.properties, after.desired.properties):
            gone[tuple(path)] = after.desired.version
        twin = after
        history[twin.desired.version] = twin.desired.properties
    since = min(seen + 1, twin.desired.version)
    later = [list(path) for path, version in gone.items() if version > since]
    patch = missed(twin.desired, since, later)
    assert merge(history[since], patch) == twin.desired.properties
    if since == twin.desired.version:
        assert patch == {}


@given(st.dictionaries(KEYS, DOCUMENTS, max_size=3))
def test_a_client_that_has_nothing_gets_everything(document: dict[str, Any]) -> None:
    twin = twins.new(None, document, NOW)
    assert missed(twin.desired, NOTHING, []) == document


def test_only_what_is_newer_is_in_it() -> None:
    twin = twins.new(None, {"a": {"b": 1, "c": 2}, "d": 3}, NOW)
    twin = twins.patch_desired(twin, {"a": {"c": 4}, "d": None}, NOW)
    assert missed(twin.desired, 1, [["d"]]) == {"a": {"c": 4}, "d": None}
    assert missed(twin.desired, 2, []) == {}


def test_what_is_there_again_is_not_removed() -> None:
    twin = twins.new(None, {"a": {"b": 1}}, NOW)
    twin = twins.patch_desired(twin, {"a": None}, NOW)
    twin = twins.patch_desired(twin, {"a": {"c": 1}}, NOW)
    assert removed({"a": {"b": 1}}, {}) == [["a"], ["a", "b"]]
    assert missed(twin.desired, 1, [["a"], ["a", "b"]]) == {"a": {"b": None, "c": 1}}
