"""Create options, images and the copy of the twin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.edge.agent import create_options, images
from muster.edge.agent.twin_copy import DesiredCopy
from muster.edge.engine.base import RegistryLogin
from unit.edge.agent.agent_cases import desired

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.integers(-3, 3) | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)


# Create options.


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=400), max_size=8))
def test_split_options_come_together_again(options: dict[str, str]) -> None:
    pieces = create_options.split(options)
    assert all(len(piece) <= 512 for piece in pieces.values())
    assert create_options.join(pieces) == options


def test_pieces_are_named_as_the_official_agent_names_them() -> None:
    pieces = create_options.split({"Hostname": "x" * 1100})
    assert list(pieces) == ["createOptions", "createOptions01", "createOptions02"]


@pytest.mark.parametrize("text", ["", "  ", "null", "NULL", "{}"])
def test_no_options(text: str) -> None:
    assert create_options.join({"createOptions": text}) == {}
    assert create_options.join({}) == {}


def test_options_as_an_object_are_taken() -> None:
    assert create_options.join({"createOptions": {"Hostname": "x"}}) == {"Hostname": "x"}


def test_more_than_a_hundred_pieces_are_refused() -> None:
    pieces = {f"createOptions{number:02}": "" for number in range(100)}
    with pytest.raises(ValueError, match="101 pieces"):
        create_options.join({"createOptions": "{}", **pieces})


# Images.


@pytest.mark.parametrize(
    ("image", "normalized", "registry"),
    [
        ("alpine", "alpine:latest", None),
        ("alpine:3", "alpine:3", None),
        (" team/a:1 ", "team/a:1", images.DEFAULT_REGISTRY),
        ("registry.example/a", "registry.example/a:latest", "registry.example"),
        ("registry.example:5000/b/a:2", "registry.example:5000/b/a:2", "registry.example:5000"),
        ("localhost/a:1", "localhost/a:1", "localhost"),
        ("r.example/a@sha256:0f", "r.example/a@sha256:0f", "r.example"),
    ],
)
def test_images(image: str, normalized: str, registry: str | None) -> None:
    assert images.normalized(image, None) == normalized
    assert images.registry(normalized) == registry


def test_credentials_are_those_of_the_registry() -> None:
    ours = RegistryLogin(address="Registry.Example", username="a", password="1")
    others = RegistryLogin(address="registry.example", username="b", password="2")
    hub = RegistryLogin(address=images.DEFAULT_REGISTRY, username="c", password="3")
    assert images.login("registry.example/a:1", [ours], [others]) is ours
    assert images.login("registry.example/a:1", [], [others]) is others
    assert images.login("elsewhere.example/a:1", [ours], [others]) is None
    assert images.login("team/a:1", [ours, hub]) is hub
    assert images.login("a:1", [ours, hub]) is None


# The copy of the twin.


def test_patches_that_follow_are_applied() -> None:
    copy = DesiredCopy({"a": {"x": 1, "y": 2}, "$version": 3})
    assert copy.apply({"a": {"x": None}, "b": 1, "$version": 4})
    assert copy.document == {"a": {"y": 2}, "b": 1, "$version": 4}
    assert copy.version == 4


def test_a_patch_after_a_gap_needs_the_whole_twin() -> None:
    copy = DesiredCopy({"a": 1, "$version": 3})
    assert not copy.apply({"a": 2, "$version": 5})
    assert copy.document == {"a": 1, "$version": 3}
    assert copy.replace({"a": 2, "$version": 5})
    assert not copy.replace({"a": 2, "$version": 5})


def test_a_patch_that_may_stand_in_place_of_all_needs_the_whole_twin() -> None:
    whole = desired(3, a={"type": "process", "env": {"K": {"value": 1}}})
    copy = DesiredCopy(whole)
    # Whoever puts a document in place of another has the hub tell that document, without nulls.
    assert not copy.apply(desired(4, a={"type": "process"}))
    assert copy.document == whole
    assert copy.apply({**whole, "$version": 4})
    assert copy.document == {**whole, "$version": 4}
    assert DesiredCopy({"$version": 3}).apply({**whole, "$version": 4})


def test_a_patch_that_was_heard_of_is_nothing() -> None:
    copy = DesiredCopy({"a": 1, "$version": 3})
    assert copy.apply({"a": 9, "$version": 3})
    assert copy.document == {"a": 1, "$version": 3}


def test_a_patch_before_any_twin_needs_the_whole_twin() -> None:
    copy = DesiredCopy()
    assert not copy.apply({"a": 1, "$version": 1})
    assert copy.version == 0
