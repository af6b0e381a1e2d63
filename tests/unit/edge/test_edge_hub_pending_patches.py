"""Patches of reported properties that wait in the edge hub for the link."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muster.edge.hub.twins import MAX_PENDING, _with
from muster.model.merge_patches import merge
from unit.model.merge_patch_strategies import DOCUMENTS, PATCHES


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
