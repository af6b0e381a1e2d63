from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.certificates.sealing import Sealer
from muster.errors import InvalidArgumentError
from muster.ids import Randomness

KEY = bytes(32)
names = st.text(max_size=10)


@given(names, names, st.binary(max_size=20), st.binary(max_size=200))
def test_what_was_sealed_is_opened(
    module: str, generation: str, vector: bytes, text: bytes
) -> None:
    sealed = Sealer(KEY, Randomness()).seal(module, generation, vector, text)
    assert Sealer(KEY, Randomness()).open(module, generation, vector, sealed) == text


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    sealer = Sealer(KEY, Randomness())
    sealed = bytearray(sealer.seal("m", "1", b"iv", b"text"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidArgumentError, match="could not decrypt"):
        sealer.open("m", "1", b"iv", bytes(sealed))


@pytest.mark.parametrize(
    ("module", "generation", "vector"), [("n", "1", b"iv"), ("m", "2", b"iv"), ("m", "1", b"x")]
)
def test_only_the_same_module_opens_it(module: str, generation: str, vector: bytes) -> None:
    sealer = Sealer(KEY, Randomness())
    sealed = sealer.seal("m", "1", b"iv", b"text")
    with pytest.raises(InvalidArgumentError, match="could not decrypt"):
        sealer.open(module, generation, vector, sealed)
    with pytest.raises(InvalidArgumentError, match="could not decrypt"):
        Sealer(bytes(31) + b"\x01", Randomness()).open("m", "1", b"iv", sealed)


def test_one_vector_twice_gives_nothing_away() -> None:
    sealer = Sealer(KEY, Randomness())
    assert sealer.seal("m", "1", b"iv", b"text") != sealer.seal("m", "1", b"iv", b"text")
