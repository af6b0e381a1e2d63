"""Documents, and merge patches of them, small enough to meet each other often."""

from __future__ import annotations

from hypothesis import strategies as st

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
