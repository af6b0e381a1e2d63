"""Merge patches of the edge hub's copies of twins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muster.edge.hub.merge_patches import compose, difference
from muster.edge.hub.twins import MAX_PENDING, _with
from muster.model.twin import merge

NAMES = st.sampled_from("abc")
VALUES = st.booleans() | st.integers(0, 2) | st.text("x", max_size=1) | st.just([1, True])
DOCUMENTS = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=3),
    lambda inner: st.dictionaries(NAMES, VALUES | inner, max_size=3),
    max_leaves=6,
)
PATCHES = st.recursive(
    st.dictionaries(NAMES, VALUES | st.none(), max_size=3),
    lambda inner: st.dictionaries(NAMES, VALUES | st.none() | inner, max_size=3),
    max_leaves=6,
)


@given(DOCUMENTS, PATCHES, PATCHES)
def test_a_composed_patch_does_what_both_do(document, first, second):
    together = compose(first, second)
    if together is not None:
        assert merge(document, together) == merge(merge(document, first), second)


def test_an_object_behind_a_deletion_cannot_be_composed():
    assert compose({"a": None}, {"a": {"b": 1}}) is None
    assert compose({"a": {"b": 1}}, {"a": None}) == {"a": None}


@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_leads_from_one_document_to_the_other(old, new):
    assert merge(old, difference(old, new)) == new


@given(DOCUMENTS)
def test_there_is_no_difference_to_itself(document):
    assert difference(document, document) == {}


def test_true_is_not_one():
    assert difference({"a": 1}, {"a": True}) == {"a": True}
    assert difference({"a": [0]}, {"a": [False]}) == {"a": [False]}


@given(DOCUMENTS, st.lists(PATCHES, max_size=6))
def test_patches_that_wait_mean_the_same_as_all_of_them(document, patches):
    waiting: list = []
    reported = document
    for patch in patches:
        reported = merge(reported, patch)
        waiting = _with(waiting, patch, reported)
    after = document
    for patch in waiting:
        after = merge(after, patch)
    assert after == reported


def test_patches_that_wait_do_not_grow_without_end():
    waiting: list = []
    document = reported = {"keep": 1, "a": {"old": 1}}
    for number in range(3 * MAX_PENDING):
        patch = {"a": None} if number % 2 else {"a": {"n": number}}
        reported = merge(reported, patch)
        waiting = _with(waiting, patch, reported)
        assert len(waiting) <= MAX_PENDING
        after = document
        for each in waiting:
            after = merge(after, each)
        assert after == reported
