"""Hypothesis strategies for whatever AMQP 1.0 can carry."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from muster.wire.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from vectors import amqp as vectors

if TYPE_CHECKING:
    from collections.abc import Sequence


def typed(value: Any) -> Any:
    """Return the value so that equal means of equal type as well, down to every item."""
    match value:
        case Described():
            return Described, typed(value.descriptor), typed(value.value)
        case Array():
            return (
                Array,
                value.type_,
                [typed(item) for item in value.items],
                typed(value.descriptor),
            )
        case list():
            return list, [typed(item) for item in value]
        case dict():
            return dict, [(typed(key), typed(item)) for key, item in value.items()]
        case float():
            # NaN is to equal itself, and 0.0 not -0.0.
            return type(value), struct.pack(">d", value)
    return type(value), value


def whole(type_: type, bits: int, *, signed: bool) -> st.SearchStrategy[Any]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.builds(type_, st.integers(low, high) | st.integers(max(low, -300), min(high, 300)))


characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, max_size=40) | st.builds(
    lambda unit, times: unit * times, st.text(characters, max_size=3), st.integers(0, 200)
)
symbols = st.builds(Symbol, st.text(st.characters(max_codepoint=127), max_size=30))
keys = st.one_of(symbols, texts, whole(int, 64, signed=True), st.binary(max_size=5))
scalars: dict[type, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    UByte: whole(UByte, 8, signed=False),
    UShort: whole(UShort, 16, signed=False),
    UInt: whole(UInt, 32, signed=False),
    ULong: whole(ULong, 64, signed=False),
    Byte: whole(Byte, 8, signed=True),
    Short: whole(Short, 16, signed=True),
    Int: whole(Int, 32, signed=True),
    int: whole(int, 64, signed=True),
    Float: st.builds(Float, st.floats(width=32, allow_nan=False)),
    float: st.floats(),
    Char: st.builds(Char, characters),
    Timestamp: whole(Timestamp, 64, signed=True),
    Decimal32: st.builds(Decimal32, st.binary(min_size=4, max_size=4)),
    Decimal64: st.builds(Decimal64, st.binary(min_size=8, max_size=8)),
    Decimal128: st.builds(Decimal128, st.binary(min_size=16, max_size=16)),
    bytes: st.binary(max_size=300),
    str: texts,
    Symbol: symbols,
}
primitives = st.one_of(*scalars.values(), st.uuids())


def arrays(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Array]:
    lists = st.lists(items, max_size=4)
    maps = st.dictionaries(keys, items, max_size=3)
    kinds = {**scalars, list: lists, dict: maps}
    return st.sampled_from(list(kinds)).flatmap(
        lambda type_: st.builds(
            Array,
            st.just(type_),
            st.lists(kinds[type_], max_size=4),
            st.none() | st.builds(ULong, st.integers(0, 300)) | symbols,
        )
    )


values: st.SearchStrategy[Any] = st.recursive(
    primitives,
    lambda items: st.one_of(
        st.lists(items, max_size=5),
        st.dictionaries(keys, items, max_size=4),
        st.builds(Described, st.builds(ULong, st.integers(0, 300)) | symbols, items),
        arrays(items),
        st.builds(lambda item: Array(Array, [Array(list, [[item]])]), items),
    ),
    max_leaves=8,
).filter(lambda value: depth(value) < 16)


def depth(value: Any) -> int:
    """Return how many compound values are within each other."""
    match value:
        case Described():
            return 1 + max(depth(value.descriptor), depth(value.value))
        case Array():
            return 1 + max(map(depth, value.items), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
    return 0


_SEEDS = [
    case.data
    for case in (
        *vectors.VALUES,
        *vectors.OTHER_VALUES,
        *vectors.MALFORMED_VALUES,
        *vectors.PERFORMATIVES,
        *vectors.OTHER_PERFORMATIVES,
        *vectors.MESSAGES,
        *vectors.REFUSED_FRAMES,
    )
    if len(case.data) < 500
]


def damage(data: bytes, changes: Sequence[tuple[int, int]]) -> bytes:
    """Return the data with some bytes changed."""
    damaged = bytearray(data)
    for position, value in changes:
        if damaged:
            damaged[position % len(damaged)] = value
    return bytes(damaged)


changes = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), max_size=4)
junk = st.one_of(
    st.binary(max_size=200),
    st.builds(damage, st.sampled_from(_SEEDS), changes),
    st.builds(damage, st.builds(b"".join, st.lists(st.sampled_from(_SEEDS), max_size=4)), changes),
)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return the data in chunks, cut at these places modulo its length."""
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


cuts = st.lists(st.integers(0, 20_000), max_size=12)
