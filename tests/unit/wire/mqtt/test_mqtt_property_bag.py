"""The property bag of a topic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.mqtt import property_bag

CASES: list[tuple[str, list[tuple[str, str | None]]]] = [
    ("", []),
    ("?", []),
    ("/", []),
    ("a=1", [("a", "1")]),
    ("a=1&b=2&a=3", [("a", "1"), ("b", "2"), ("a", "3")]),
    ("a", [("a", None)]),
    ("a=", [("a", "")]),
    ("a=b=c", [("a", "b=c")]),
    ("=v", [("", "v")]),
    ("&&a=1&", [("a", "1")]),
    # As Python sends it (hub-device.md 12.1).
    (
        "%24.mid=id%201&%24.ct=application%2Fjson&%24.ce=utf-8&al%20ert=tr%2Fue%26x",
        [
            ("$.mid", "id 1"),
            ("$.ct", "application/json"),
            ("$.ce", "utf-8"),
            ("al ert", "tr/ue&x"),
        ],
    ),
    # As clients without an SDK may.
    ("$.mid=1&$.ct=application/json", [("$.mid", "1"), ("$.ct", "application/json")]),
    # As a Node module does.
    ("%24.on=out1&%24.sub=comp1/", [("$.on", "out1"), ("$.sub", "comp1")]),
    ("%24.on=out1%2F/", [("$.on", "out1/")]),
    ("?$rid=1f&$version=3", [("$rid", "1f"), ("$version", "3")]),
    ("a=1//", [("a", "1/")]),
    ("??a=1", [("?a", "1")]),
    ("a=1+1", [("a", "1+1")]),
    ("a=%C3%A9é", [("a", "éé")]),
    ("a=%ff", [("a", "\ufffd")]),
    ("a=%zz%", [("a", "%zz%")]),
    ("%3D%26=%3D%26", [("=&", "=&")]),
]


@pytest.mark.parametrize(("text", "properties"), CASES, ids=[text for text, _ in CASES])
def test_decode(text: str, properties: list[tuple[str, str | None]]) -> None:
    assert property_bag.decode(text) == properties


def test_encode() -> None:
    properties = [("$.to", "/devices/D 1/messages"), ("k", None), ("e", ""), ("ü", "a+b=c&d~._-")]
    assert property_bag.encode(properties) == (
        "%24.to=%2Fdevices%2FD%201%2Fmessages&k&e=&%C3%BC=a%2Bb%3Dc%26d~._-"
    )
    assert property_bag.encode([]) == ""
    assert property_bag.encode([("", None), ("a", "1"), ("", "v")]) == "a=1&=v"
    assert property_bag.encode([("a", "\ud800")]) == "a=%3F"


characters = st.characters(exclude_categories=["Cs"])


@given(
    st.lists(st.tuples(st.text(characters), st.none() | st.text(characters))),
    st.sampled_from(["", "?"]),
    st.sampled_from(["", "/"]),
)
def test_decoding_gives_the_properties_back(
    properties: list[tuple[str, str | None]], before: str, after: str
) -> None:
    bag = property_bag.encode(properties)
    assert not set(bag) & set("/#+?$")
    expected = [(key, value) for key, value in properties if key or value is not None]
    assert property_bag.decode(before + bag + after) == expected


@given(st.text(st.characters()) | st.text("%&=/?+$.é\ud800aF0"))
def test_any_text_can_be_read(text: str) -> None:
    found = property_bag.decode(text)
    assert all(key or value is not None for key, value in found)
    clean = text.encode(errors="replace").decode()
    assert property_bag.decode(property_bag.encode(property_bag.decode(clean))) == (
        property_bag.decode(clean)
    )
