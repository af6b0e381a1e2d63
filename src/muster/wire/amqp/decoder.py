"""AMQP values: from bytes to Python, whatever the peer writes.

Every form of every primitive type is read (1.6). What is bounded: nesting, by `MAX_DEPTH`; the
size of lists, maps and arrays, by the bytes that they come in; the keys of maps, to types whose
hashes a peer cannot choose, so that nobody makes a dictionary slow.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias
from uuid import UUID

from muster.wire.amqp.errors import RemoteProtocolError
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
    from collections.abc import Callable

Reader: TypeAlias = "Callable[[bytes, int, int], tuple[Value, int]]"
"""Takes the data, the position behind the constructor and the depth, and returns the value and the
position behind it. May raise what `MALFORMED` lists."""

MAX_DEPTH: Final = 16
"""Lists, maps, arrays and described values within each other. A filter set, the deepest thing a
client sends, takes four."""

MALFORMED: Final = (IndexError, struct.error, UnicodeDecodeError, ValueError)
"""What readers raise, besides `RemoteProtocolError`, for data that ends too soon or is no text."""

_MAX_EMPTY_ITEMS: Final = 256
"""Items of an array whose items take no bytes, so that nothing else bounds their number."""

_KEYS: Final = frozenset(
    {
        type(None),
        bool,
        UByte,
        UShort,
        UInt,
        ULong,
        Byte,
        Short,
        Int,
        int,
        Char,
        Timestamp,
        bytes,
        str,
        Symbol,
    }
)

_unpack_u16: Final = struct.Struct(">H").unpack_from
_unpack_u32: Final = struct.Struct(">I").unpack_from
_unpack_u64: Final = struct.Struct(">Q").unpack_from
_unpack_i8: Final = struct.Struct(">b").unpack_from
_unpack_i16: Final = struct.Struct(">h").unpack_from
_unpack_i32: Final = struct.Struct(">i").unpack_from
_unpack_i64: Final = struct.Struct(">q").unpack_from
_unpack_f32: Final = struct.Struct(">f").unpack_from
_unpack_f64: Final = struct.Struct(">d").unpack_from
_unpack_u8_u8: Final = struct.Struct(">BB").unpack_from
_unpack_u32_u32: Final = struct.Struct(">II").unpack_from


def decode(data: bytes) -> Value:
    """Return the one value that these bytes are.

    Raises:
        RemoteProtocolError: they are not exactly one value.
    """
    try:
        value, end = read(data, 0)
    except MALFORMED:
        _fail("value is cut off or not of its type")
    if end != len(data):
        _fail("bytes are left behind a value")
    return value


def read(data: bytes, position: int, depth: int = 0) -> tuple[Value, int]:
    """Return the value at `position` and the position behind it.

    Raises:
        RemoteProtocolError: this is no value; also whatever `MALFORMED` lists.
    """
    return READERS[data[position]](data, position + 1, depth)


def read_list(
    data: bytes, position: int, readers: tuple[Reader, ...], depth: int = 1
) -> tuple[list[Value], int]:
    """Return the items of the list at `position`, read with `readers`, and the position behind it.

    Raises:
        RemoteProtocolError: this is no list; also whatever `MALFORMED` lists.
    """
    code = data[position]
    if code == 0xC0:
        size, count = _unpack_u8_u8(data, position + 1)
        return _items(data, position + 3, size - 1, count, readers, depth)
    if code == 0xD0:
        size, count = _unpack_u32_u32(data, position + 1)
        return _items(data, position + 9, size - 4, count, readers, depth)
    if code == 0x45:
        return [], position + 1
    raise RemoteProtocolError("a list is expected")


def _items(  # noqa: PLR0917 - called for everything, and keywords cost
    data: bytes, position: int, size: int, count: int, readers: tuple[Reader, ...], depth: int
) -> tuple[list[Value], int]:
    """Return `count` values that take `size` bytes, and the position behind them."""
    end = position + size
    if end > len(data) or count > size:
        _fail("list or map is longer than what holds it")
    items: list[Value] = []
    append = items.append
    while count:
        count -= 1
        code = data[position]
        if code == 0x40:
            append(None)
            position += 1
        else:
            value, position = readers[code](data, position + 1, depth)
            append(value)
    if position != end:
        _fail("list or map is not as long as it says")
    return items, end


def _fail(description: str) -> NoReturn:
    raise RemoteProtocolError(description)


def _constant(value: Value) -> Reader:
    result = value
    return lambda _data, position, _depth: (result, position)


def _number(unpack: Callable[[bytes, int], tuple[Value, ...]], size: int, type_: type) -> Reader:
    if type_ in {int, float}:
        return lambda data, position, _depth: (unpack(data, position)[0], position + size)
    return lambda data, position, _depth: (type_(unpack(data, position)[0]), position + size)


def _unsigned_byte(type_: type) -> Reader:
    if type_ is int:
        return lambda data, position, _depth: (data[position], position + 1)
    return lambda data, position, _depth: (type_(data[position]), position + 1)


def _boolean(data: bytes, position: int, _depth: int) -> tuple[Value, int]:
    value = data[position]
    if value > 1:
        _fail("boolean is neither 0 nor 1")
    return value == 1, position + 1


def _char(data: bytes, position: int, _depth: int) -> tuple[Value, int]:
    code = _unpack_u32(data, position)[0]
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        _fail("char is no Unicode character")
    return Char(chr(code)), position + 4


def _fixed(size: int, type_: Callable[[bytes], Value]) -> Reader:
    def reader(data: bytes, position: int, _depth: int) -> tuple[Value, int]:
        end = position + size
        if end > len(data):
            _fail("value is cut off")
        return type_(data[position:end]), end

    return reader


def _uuid(raw: bytes) -> UUID:
    return UUID(bytes=raw)


def _text_8(data: bytes, position: int, _depth: int) -> tuple[Value, int]:
    start = position + 1
    end = start + data[position]
    if end > len(data):
        _fail("value is cut off")
    return data[start:end].decode(), end


def _variable_8(type_: Callable[[bytes], Value] | None) -> Reader:
    def reader(data: bytes, position: int, _depth: int) -> tuple[Value, int]:
        start = position + 1
        end = start + data[position]
        if end > len(data):
            _fail("value is cut off")
        raw = data[start:end]
        return raw if type_ is None else type_(raw), end

    return reader


def _variable_32(type_: Callable[[bytes], Value] | None) -> Reader:
    def reader(data: bytes, position: int, _depth: int) -> tuple[Value, int]:
        start = position + 4
        end = start + int(_unpack_u32(data, position)[0])
        if end > len(data):
            _fail("value is cut off")
        raw = data[start:end]
        return raw if type_ is None else type_(raw), end

    return reader


def _symbol(raw: bytes) -> Symbol:
    return Symbol(raw.decode("ascii"))


def _string(raw: bytes) -> str:
    return raw.decode()


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        _fail(f"values are nested deeper than {MAX_DEPTH} levels")
    return depth + 1


def _list_8(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    size, count = _unpack_u8_u8(data, position)
    return _items(data, position + 2, size - 1, count, READERS, _deeper(depth))


def _list_32(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    size, count = _unpack_u32_u32(data, position)
    return _items(data, position + 8, size - 4, count, READERS, _deeper(depth))


def _list_0(_data: bytes, position: int, _depth: int) -> tuple[Value, int]:
    return [], position


def _map_8(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    items, end = _list_8(data, position, depth)
    return _paired(items), end


def _map_32(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    items, end = _list_32(data, position, depth)
    return _paired(items), end


def _paired(items: list[Value]) -> dict[Value, Value]:
    if len(items) & 1:
        _fail("map has a key without a value")
    keys = items[::2]
    if not _KEYS.issuperset(map(type, keys)):
        _fail("map has a key of a type that is not served")
    return dict(zip(keys, items[1::2], strict=True))


def _array_8(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    size, count = _unpack_u8_u8(data, position)
    return _array(data, position + 2, position + 1 + size, count, _deeper(depth))


def _array_32(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    size, count = _unpack_u32_u32(data, position)
    return _array(data, position + 8, position + 4 + size, count, _deeper(depth))


def _array(data: bytes, position: int, end: int, count: int, depth: int) -> tuple[Value, int]:
    if end > len(data):
        _fail("array is longer than what holds it")
    descriptor = None
    code = data[position]
    if code == 0:
        descriptor, position = READERS[data[position + 1]](data, position + 2, depth)
        code = data[position]
    position += 1
    type_ = _TYPES.get(code)
    if type_ is None:
        _fail("array has items of no known type")
    if count > (_MAX_EMPTY_ITEMS if code in _EMPTY else end - position):
        _fail("array has more items than fit into it")
    reader = READERS[code]
    items: list[Value] = []
    for _ in range(count):
        value, position = reader(data, position, depth)
        items.append(value)
    if position != end:
        _fail("array is not as long as it says")
    return Array(type_, items, descriptor), end


def _described(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    depth = _deeper(depth)
    descriptor, position = READERS[data[position]](data, position + 1, depth)
    value, position = READERS[data[position]](data, position + 1, depth)
    return Described(descriptor, value), position


def _unknown(_data: bytes, _position: int, _depth: int) -> tuple[Value, int]:
    _fail("value is of no known type")


_PRIMITIVES: Final[dict[int, tuple[type, Reader]]] = {
    0x40: (type(None), _constant(None)),
    0x41: (bool, _constant(value=True)),
    0x42: (bool, _constant(value=False)),
    0x43: (UInt, _constant(UInt(0))),
    0x44: (ULong, _constant(ULong(0))),
    0x45: (list, _list_0),
    0x50: (UByte, _unsigned_byte(UByte)),
    0x51: (Byte, _number(_unpack_i8, 1, Byte)),
    0x52: (UInt, _unsigned_byte(UInt)),
    0x53: (ULong, _unsigned_byte(ULong)),
    0x54: (Int, _number(_unpack_i8, 1, Int)),
    0x55: (int, _number(_unpack_i8, 1, int)),
    0x56: (bool, _boolean),
    0x60: (UShort, _number(_unpack_u16, 2, UShort)),
    0x61: (Short, _number(_unpack_i16, 2, Short)),
    0x70: (UInt, _number(_unpack_u32, 4, UInt)),
    0x71: (Int, _number(_unpack_i32, 4, Int)),
    0x72: (Float, _number(_unpack_f32, 4, Float)),
    0x73: (Char, _char),
    0x74: (Decimal32, _fixed(4, Decimal32)),
    0x80: (ULong, _number(_unpack_u64, 8, ULong)),
    0x81: (int, _number(_unpack_i64, 8, int)),
    0x82: (float, _number(_unpack_f64, 8, float)),
    0x83: (Timestamp, _number(_unpack_i64, 8, Timestamp)),
    0x84: (Decimal64, _fixed(8, Decimal64)),
    0x94: (Decimal128, _fixed(16, Decimal128)),
    0x98: (UUID, _fixed(16, _uuid)),
    0xA0: (bytes, _variable_8(None)),
    0xA1: (str, _text_8),
    0xA3: (Symbol, _variable_8(_symbol)),
    0xB0: (bytes, _variable_32(None)),
    0xB1: (str, _variable_32(_string)),
    0xB3: (Symbol, _variable_32(_symbol)),
    0xC0: (list, _list_8),
    0xC1: (dict, _map_8),
    0xD0: (list, _list_32),
    0xD1: (dict, _map_32),
    0xE0: (Array, _array_8),
    0xF0: (Array, _array_32),
}
_TYPES: Final = {code: type_ for code, (type_, _) in _PRIMITIVES.items()}
_EMPTY: Final = frozenset({0x40, 0x41, 0x42, 0x43, 0x44, 0x45})

READERS: Final[tuple[Reader, ...]] = tuple(
    _described if code == 0 else _PRIMITIVES[code][1] if code in _PRIMITIVES else _unknown
    for code in range(256)
)
"""By constructor, how to read a value of exactly its type."""

_PLAIN: Final[dict[int, Reader]] = {
    0x43: _constant(0),
    0x44: _constant(0),
    0x50: _unsigned_byte(int),
    0x52: _unsigned_byte(int),
    0x53: _unsigned_byte(int),
    0x54: _number(_unpack_i8, 1, int),
    0x60: _number(_unpack_u16, 2, int),
    0x70: _number(_unpack_u32, 4, int),
    0x71: _number(_unpack_i32, 4, int),
    0x80: _number(_unpack_u64, 8, int),
}

PLAIN_READERS: Final[tuple[Reader, ...]] = tuple(
    _PLAIN.get(code, reader) for code, reader in enumerate(READERS)
)
"""The same where the type is known anyway: every number is an `int`, which is faster."""
