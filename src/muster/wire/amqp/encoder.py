"""AMQP values: from Python to bytes, of exactly the type that Python value stands for.

Numbers and texts take their shortest form. Lists never take the form without a body (`45`): where
a list is expected, the decoder of azure-eventhub does not know it (hub-service.md 0.3).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from muster.wire.amqp.errors import LocalProtocolError
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
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NULL: Final = b"\x40"

_pack_u32: Final = struct.Struct(">I").pack


def encode(value: Value) -> bytes:
    """Return the value in bytes.

    Raises:
        LocalProtocolError: it is of a type that AMQP does not have, or outside its type's range.
    """
    try:
        return _ENCODERS[type(value)](value)
    except KeyError:
        raise LocalProtocolError(f"AMQP has no type for {type(value).__name__}") from None
    except (struct.error, OverflowError):
        raise LocalProtocolError(f"value is outside the range of {type(value).__name__}") from None
    except UnicodeEncodeError:
        raise LocalProtocolError("text holds what cannot be encoded") from None
    except RecursionError:
        raise LocalProtocolError("value is nested too deep") from None


def encode_list(items: Iterable[bytes]) -> bytes:
    """Return a list of encoded values."""
    parts = list(items)
    return _compound(0xC0, 0xD0, len(parts), b"".join(parts))


def encode_binary(value: bytes) -> bytes:
    """Return a binary."""
    return _variable(0xA0, 0xB0, value)


def encode_uint(value: int) -> bytes:
    """Return a uint.

    Raises:
        LocalProtocolError: the value is not 0 to 2**32 - 1.
    """
    if value == 0:
        return b"\x43"
    if 0 < value < 256:
        return bytes((0x52, value))
    return _packed(0x70, ">BI", value)


def encode_ulong(value: int) -> bytes:
    """Return a ulong.

    Raises:
        LocalProtocolError: the value is not 0 to 2**64 - 1.
    """
    if value == 0:
        return b"\x44"
    if 0 < value < 256:
        return bytes((0x53, value))
    return _packed(0x80, ">BQ", value)


def encode_symbol(value: str) -> bytes:
    """Return a symbol.

    Raises:
        LocalProtocolError: the text is not ASCII.
    """
    try:
        return _variable(0xA3, 0xB3, value.encode("ascii"))
    except UnicodeEncodeError:
        raise LocalProtocolError("symbol is not ASCII") from None


def encode_string(value: str) -> bytes:
    """Return a string.

    Raises:
        LocalProtocolError: the text holds half a surrogate pair.
    """
    try:
        return _variable(0xA1, 0xB1, value.encode())
    except UnicodeEncodeError:
        raise LocalProtocolError("string holds half a surrogate pair") from None


def _packed(code: int, form: str, value: int) -> bytes:
    try:
        return struct.pack(form, code, value)
    except struct.error:
        raise LocalProtocolError("number is outside the range of its type") from None


def _variable(short: int, long: int, raw: bytes) -> bytes:
    size = len(raw)
    if size < 256:
        return bytes((short, size)) + raw
    return bytes((long,)) + _pack_u32(size) + raw


def _compound(short: int, long: int, count: int, body: bytes) -> bytes:
    size = len(body)
    if size < 255 and count < 256:
        return bytes((short, size + 1, count)) + body
    return bytes((long,)) + _pack_u32(size + 4) + _pack_u32(count) + body


def _number(code: int, form: str) -> Callable[[Any], bytes]:
    pack = struct.Struct(">B" + form).pack
    return lambda value: pack(code, value)


def _small_number(code: int, short: int, form: str) -> Callable[[Any], bytes]:
    pack = struct.Struct(">B" + form).pack

    def encoder(value: int) -> bytes:
        return bytes((short, value & 0xFF)) if -128 <= value < 128 else pack(code, value)

    return encoder


def _fixed(code: int, size: int) -> Callable[[Any], bytes]:
    def encoder(value: bytes) -> bytes:
        if len(value) != size:
            raise LocalProtocolError(f"decimal is not {size} bytes")
        return bytes((code,)) + value

    return encoder


def _char(value: Char) -> bytes:
    if len(value) != 1 or "\ud800" <= value < "\ue000":
        raise LocalProtocolError("char is not one character")
    return b"\x73" + _pack_u32(ord(value))


def _map(value: dict[Value, Value]) -> bytes:
    parts = [encode(item) for pair in value.items() for item in pair]
    return _compound(0xC1, 0xD1, len(parts), b"".join(parts))


def _described(value: Described) -> bytes:
    return b"\0" + encode(value.descriptor) + encode(value.value)


def _array(value: Array) -> bytes:
    descriptor = b"" if value.descriptor is None else b"\0" + encode(value.descriptor)
    code, form = _item_form(value)
    body = b"".join(form(item) for item in value.items)
    return _compound(0xE0, 0xF0, len(value.items), b"".join((descriptor, bytes((code,)), body)))


def _item_form(array: Array) -> tuple[int, Callable[[Any], bytes]]:
    """Return the one constructor of an array's items, and what writes an item without it."""
    type_ = array.type_
    if any(type(item) is not type_ for item in array.items):
        raise LocalProtocolError(f"array of {type_.__name__} holds something else")
    if type_ in _ITEMS:
        code, prefix = _ITEMS[type_]
        wide = _WIDE.get(type_, encode)
        return code, lambda item: wide(item)[prefix:]
    if type_ in _TEXTS:
        short, long, raw = _TEXTS[type_]
        if all(len(raw(item)) < 256 for item in array.items):
            return short, lambda item: bytes((len(raw(item)),)) + raw(item)
        return long, lambda item: _pack_u32(len(raw(item))) + raw(item)
    raise LocalProtocolError(f"AMQP has no array of {type_.__name__}")


def _wide_list(items: list[Value]) -> bytes:
    body = b"".join(map(encode, items))
    return b"\xd0" + _pack_u32(len(body) + 4) + _pack_u32(len(items)) + body


def _wide_map(value: dict[Value, Value]) -> bytes:
    return b"\xd1" + _wide_list([item for pair in value.items() for item in pair])[1:]


def _wide_array(value: Array) -> bytes:
    encoded = _array(value)
    if encoded[0] == 0xF0:
        return encoded
    return b"\xf0" + _pack_u32(encoded[1] + 3) + _pack_u32(encoded[2]) + encoded[3:]


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _value: NULL,
    bool: lambda value: b"\x41" if value else b"\x42",
    UByte: _number(0x50, "B"),
    UShort: _number(0x60, "H"),
    UInt: encode_uint,
    ULong: encode_ulong,
    Byte: _number(0x51, "b"),
    Short: _number(0x61, "h"),
    Int: _small_number(0x71, 0x54, "i"),
    int: _small_number(0x81, 0x55, "q"),
    Float: _number(0x72, "f"),
    float: _number(0x82, "d"),
    Decimal32: _fixed(0x74, 4),
    Decimal64: _fixed(0x84, 8),
    Decimal128: _fixed(0x94, 16),
    Char: _char,
    Timestamp: _number(0x83, "q"),
    UUID: lambda value: b"\x98" + value.bytes,
    bytes: encode_binary,
    str: encode_string,
    Symbol: encode_symbol,
    list: lambda value: encode_list(map(encode, value)),
    dict: _map,
    Array: _array,
    Described: _described,
}

# Items of an array are all of one form, so of the widest: its constructor, and how much of an
# encoded value the constructor is.
_ITEMS: Final[dict[type, tuple[int, int]]] = {
    type(None): (0x40, 1),
    bool: (0x56, 1),
    UByte: (0x50, 1),
    UShort: (0x60, 1),
    UInt: (0x70, 1),
    ULong: (0x80, 1),
    Byte: (0x51, 1),
    Short: (0x61, 1),
    Int: (0x71, 1),
    int: (0x81, 1),
    Float: (0x72, 1),
    float: (0x82, 1),
    Decimal32: (0x74, 1),
    Decimal64: (0x84, 1),
    Decimal128: (0x94, 1),
    Char: (0x73, 1),
    Timestamp: (0x83, 1),
    UUID: (0x98, 1),
    list: (0xD0, 1),
    dict: (0xD1, 1),
    Array: (0xF0, 1),
}
_WIDE: Final[dict[type, Callable[[Any], bytes]]] = {
    bool: lambda value: bytes((0x56, value)),
    UInt: _number(0x70, "I"),
    ULong: _number(0x80, "Q"),
    Int: _number(0x71, "i"),
    int: _number(0x81, "q"),
    list: _wide_list,
    dict: _wide_map,
    Array: _wide_array,
}
_TEXTS: Final[dict[type, tuple[int, int, Callable[[Any], bytes]]]] = {
    bytes: (0xA0, 0xB0, bytes),
    str: (0xA1, 0xB1, lambda value: value.encode()),
    Symbol: (0xA3, 0xB3, lambda value: value.encode("ascii")),
}
