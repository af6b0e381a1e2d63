"""Chains over which edge hubs speak."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidArgumentError
from muster.model import auth_chain
from muster.model.auth_chain import MAX_DEVICES, AuthChain

ids = st.text("abcXYZ019-.+%_#*?!(),:=@$'", min_size=1, max_size=128)


@given(st.lists(ids, min_size=1, max_size=9, unique=True), st.none() | ids)
def test_what_is_written_is_read(devices: list[str], module_id: str | None) -> None:
    identity = devices[0] if module_id is None else f"{devices[0]}/{module_id}"
    chain = AuthChain(identity, tuple(devices))
    assert auth_chain.parse(chain.text) == chain
    assert chain.text.split(";") == devices if module_id is None else [identity, *devices]


@pytest.mark.parametrize(
    ("text", "identity", "devices", "speakers"),
    [
        ("edge", "edge", ("edge",), ("edge",)),
        ("leaf;edge", "leaf", ("leaf", "edge"), ("edge",)),
        ("leaf/m;leaf;edge", "leaf/m", ("leaf", "edge"), ("edge",)),
        ("edge/m;edge", "edge/m", ("edge",), ("edge",)),
        ("leaf;low;top", "leaf", ("leaf", "low", "top"), ("low", "top")),
        ("low/$edgeHub;low;top", "low/$edgeHub", ("low", "top"), ("top",)),
    ],
)
def test_who_speaks_for_whom(
    text: str, identity: str, devices: tuple[str, ...], speakers: tuple[str, ...]
) -> None:
    chain = auth_chain.parse(text)
    assert (chain.identity, chain.devices, chain.speakers) == (identity, devices, speakers)
    assert chain.actor == devices[-1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        ";edge",
        "leaf;",
        "leaf;;edge",
        "leaf/m",
        "leaf/m;edge",
        "leaf/;leaf;edge",
        "/m;leaf;edge",
        "leaf/m/n;leaf;edge",
        "leaf;edge/$edgeHub",
        "leaf;edge;leaf",
        "edge;edge",
        "le af;edge",
        "leaf;ëdge",
        "leaf;" + "x" * 129,
        ";".join(f"d{number}" for number in range(MAX_DEVICES + 1)),
        "d0/m;" + ";".join(f"d{number}" for number in range(MAX_DEVICES + 1)),
        "a;" * 100_000,
    ],
)
def test_what_is_no_chain(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        auth_chain.parse(text)
    assert caught.value.code == "malformed-auth-chain"


def test_the_longest_chain() -> None:
    names = [f"d{number}" for number in range(MAX_DEVICES)]
    assert auth_chain.parse(";".join(names)).devices == tuple(names)


@given(st.text(max_size=60) | st.text("a;/", max_size=12))
def test_anything_is_a_chain_or_refused(text: str) -> None:
    try:
        chain = auth_chain.parse(text)
    except InvalidArgumentError:
        return
    assert chain.text == text
