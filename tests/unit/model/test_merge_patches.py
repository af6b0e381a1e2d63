"""Merge patches: applied, put together, made of what differs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from msgspec.json import encode

from muster.model.merge_patches import compose, difference, merge
from unit.model.merge_patch_strategies import DOCUMENTS, PATCHES


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        # RFC 7396 appendix A, as far as both sides are objects.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_vectors(
    document: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    assert merge(document, patch) == result


@given(DOCUMENTS, PATCHES, PATCHES)
def test_a_composed_patch_does_what_both_do(document, first, second):
    together = compose(first, second)
    if together is not None:
        assert merge(document, together) == merge(merge(document, first), second)


def test_an_object_behind_a_deletion_cannot_be_composed():
    assert compose({"a": None}, {"a": {"b": 1}}) is None
    assert compose({"a": {"b": 1}}, {"a": None}) == {"a": None}


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_makes_one_document_of_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    patch = difference(before, after)
    assert merge(before, patch) == after
    # As text: to Python 1 and true are equal, and to the hub they are not.
    assert (patch == {}) == (encode(before, order="sorted") == encode(after, order="sorted"))


def test_what_is_gone_is_null_in_the_difference() -> None:
    before = {"modules": {"a": {"x": 1}, "b": {}}}
    assert difference(before, {"modules": {"b": {}}}) == {"modules": {"a": None}}


@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0), ("1", 1)])
def test_a_value_of_another_kind_differs(old: Any, new: Any) -> None:
    assert difference({"a": old}, {"a": new}) == {"a": new}


def test_true_is_not_one():
    assert difference({"a": 1}, {"a": True}) == {"a": True}
    assert difference({"a": [0]}, {"a": [False]}) == {"a": [False]}
