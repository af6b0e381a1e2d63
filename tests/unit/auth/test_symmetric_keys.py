"""Keys: the published vector, sizes, padding, masking."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.auth import symmetric_keys
from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import InvalidArgumentError
from muster.ids import Randomness

GROUP_KEY = (
    "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
)


def test_derivation_vector_of_the_documentation() -> None:
    derived = symmetric_keys.derive(
        symmetric_keys.decode(GROUP_KEY), "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
    )
    assert symmetric_keys.encode(derived) == "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


def test_derivation_minds_the_spelling() -> None:
    key = symmetric_keys.decode(GROUP_KEY)
    assert symmetric_keys.derive(key, "Device") != symmetric_keys.derive(key, "device")


@given(st.binary(min_size=16, max_size=64))
def test_decodes_what_it_encodes_with_or_without_padding(raw: bytes) -> None:
    text = symmetric_keys.encode(raw)
    assert symmetric_keys.decode(text) == raw
    assert symmetric_keys.decode(text.rstrip("=")) == raw


@pytest.mark.parametrize("size", [0, 1, 15, 65, 200])
def test_refuses_other_sizes(size: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        symmetric_keys.decode(base64.b64encode(bytes(size)).decode())
    assert caught.value.code == "invalid-key"
    assert "16 to 64 bytes" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "not a key at all, is it?",
        "A" * 25,
        GROUP_KEY + "=",
        GROUP_KEY + "\n",
        " " + GROUP_KEY,
        GROUP_KEY[:20] + "\n" + GROUP_KEY[20:],
        GROUP_KEY.replace("/", "_"),
        GROUP_KEY[:-2] + "\N{SNOWMAN}=",
    ],
)
def test_refuses_what_is_not_base64(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        symmetric_keys.decode(text)
    assert caught.value.code == "invalid-key"
    assert text not in str(caught.value)


def test_generated_keys_are_two_of_64_bytes() -> None:
    keys = symmetric_keys.generate(Randomness())
    assert len(symmetric_keys.decode(keys.primary)) == 64
    assert len(symmetric_keys.decode(keys.secondary)) == 64
    assert keys.primary != keys.secondary


def test_keys_are_not_shown() -> None:
    primary, secondary = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    shown = f"{SymmetricKeys(primary, secondary)} {SymmetricKeys(primary, secondary)!r}"
    assert primary not in shown
    assert secondary not in shown
