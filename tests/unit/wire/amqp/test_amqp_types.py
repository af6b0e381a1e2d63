"""Values between bytes and Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
from amqp_strategies import junk, typed, values
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp import decoder, encoder
from muster.wire.amqp.errors import LocalProtocolError, RemoteProtocolError
from muster.wire.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Described,
    Float,
    Int,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
)
from vectors import amqp as vectors


@pytest.mark.parametrize("case", vectors.VALUES, ids=str)
def test_encode(case: vectors.Case) -> None:
    assert encoder.encode(case.value) == case.data


@pytest.mark.parametrize("case", vectors.VALUES + vectors.OTHER_VALUES, ids=str)
def test_decode(case: vectors.Case) -> None:
    assert typed(decoder.decode(case.data)) == typed(case.value)


@pytest.mark.parametrize("case", vectors.MALFORMED_VALUES, ids=str)
def test_malformed(case: vectors.Case) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.decode(case.data)
    assert (caught.value.description, caught.value.condition) == (case.error, case.condition)


@given(values)
def test_decoding_gives_value_and_type_back(value: Any) -> None:
    assert typed(decoder.decode(encoder.encode(value))) == typed(value)


@given(values, st.integers(0, 10_000))
def test_every_value_ends_where_it_says(value: Any, at: int) -> None:
    data = encoder.encode(value)
    with pytest.raises(RemoteProtocolError):
        decoder.decode(data[: at % len(data)])


@given(junk)
def test_garbage_raises_protocol_errors_only(data: bytes) -> None:
    try:
        value = decoder.decode(data)
    except RemoteProtocolError:
        return
    # What was read can be written, and means the same again.
    assert typed(decoder.decode(encoder.encode(value))) == typed(value)


def test_wrappers_are_what_they_wrap() -> None:
    annotations = decoder.decode(encoder.encode({Symbol("operation"): "GET"}))
    assert annotations["operation"] == "GET"
    assert Int(200) == 200
    assert Float(0.1) == 0.1
    assert math.isclose(decoder.decode(encoder.encode(Float(0.1))), 0.1, rel_tol=1e-7)


def test_described_and_array_are_values() -> None:
    assert Described(ULong(1), "a") == Described(ULong(1), "a")
    assert Described(ULong(1), "a") != Described(ULong(1), "b")
    assert repr(Described(ULong(1), "a")) == "Described(1, 'a')"
    assert Array(int, [1]) == Array(int, [1])
    assert Array(int, [1]) != Array(UInt, [UInt(1)])
    assert repr(Array(int, [1])) == "Array(int, [1], None)"


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


IMPOSSIBLE: list[tuple[Any, str]] = [
    (object(), "AMQP has no type for object"),
    ({1, 2}, "AMQP has no type for set"),
    ([object()], "AMQP has no type for object"),
    (UByte(256), "outside the range of UByte"),
    (UInt(-1), "number is outside the range"),
    (UInt(2**32), "number is outside the range"),
    (ULong(2**64), "number is outside the range"),
    (Byte(128), "outside the range of Byte"),
    (Int(2**31), "outside the range of Int"),
    (2**63, "outside the range of int"),
    (Timestamp(2**63), "outside the range of Timestamp"),
    (Float(1e300), "outside the range of Float"),
    ("\ud800", "string holds half a surrogate pair"),
    (Symbol("é"), "symbol is not ASCII"),
    (Char("ab"), "char is not one character"),
    (Char("\ud800"), "char is not one character"),
    (Decimal32(b"abc"), "decimal is not 4 bytes"),
    (Array(int, [1, UInt(1)]), "array of int holds something else"),
    (Array(Described, [Described(ULong(1), 1)]), "AMQP has no array of Described"),
    (Array(str, ["\ud800"]), "text holds what cannot be encoded"),
    (Array(UInt, [UInt(2**32)]), "outside the range of Array"),
    (nested(5_000), "value is nested too deep"),
]


@pytest.mark.parametrize(("value", "reason"), IMPOSSIBLE, ids=[reason for _, reason in IMPOSSIBLE])
def test_what_cannot_be_written(value: Any, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        encoder.encode(value)
