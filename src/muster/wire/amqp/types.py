"""AMQP values in Python, so that reading and writing again gives the same type.

| AMQP | Python | | AMQP | Python |
|---|---|---|---|---|
| null | `None` | | float | `Float` |
| boolean | `bool` | | double | `float` |
| ubyte, ushort, uint, ulong | `UByte`, `UShort`, `UInt`, `ULong` | | char | `Char` |
| byte, short, int | `Byte`, `Short`, `Int` | | timestamp | `Timestamp` |
| **long** | **`int`** | | uuid | `uuid.UUID` |
| binary | `bytes` | | list | `list` |
| string | `str` | | map | `dict` |
| symbol | `Symbol` | | array | `Array` |
| decimal32, 64, 128 | `Decimal32`, `Decimal64`, `Decimal128` | | described | `Described` |

The wrappers are what they wrap: `Symbol("a") == "a"`, so a map is asked with plain strings however
its keys were typed, and a map cannot hold two keys that differ in type only. A plain `int` is
written as long; whoever needs another type says so, as with `Int(200)`.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from typing import Any, TypeAlias, final

Value: TypeAlias = Any
"""Any of the above."""


@final
class UByte(int):
    """0 to 255."""

    __slots__ = ()


@final
class UShort(int):
    """0 to 65,535."""

    __slots__ = ()


@final
class UInt(int):
    """0 to 2**32 - 1."""

    __slots__ = ()


@final
class ULong(int):
    """0 to 2**64 - 1."""

    __slots__ = ()


@final
class Byte(int):
    """-128 to 127."""

    __slots__ = ()


@final
class Short(int):
    """-32,768 to 32,767."""

    __slots__ = ()


@final
class Int(int):
    """-2**31 to 2**31 - 1. What status codes are (hub-service.md 0.3)."""

    __slots__ = ()


@final
class Float(float):
    """32 bits; written with what precision they have."""

    __slots__ = ()


@final
class Decimal32(bytes):
    """Four bytes, which nobody here calculates with."""

    __slots__ = ()


@final
class Decimal64(bytes):
    """Eight bytes."""

    __slots__ = ()


@final
class Decimal128(bytes):
    """Sixteen bytes."""

    __slots__ = ()


@final
class Char(str):
    """One Unicode character."""

    __slots__ = ()


@final
class Symbol(str):
    """ASCII text from a set of names."""

    __slots__ = ()


@final
class Timestamp(int):
    """Milliseconds since 1970, UTC."""

    __slots__ = ()


@final
class Described:
    """A value and what says how to understand it (1.2).

    Args:
        descriptor: any value; `ULong` or `Symbol` for types of the standard.
        value: what is described.
    """

    __slots__ = ("descriptor", "value")

    def __init__(self, descriptor: Value, value: Value) -> None:
        self.descriptor = descriptor
        self.value = value

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Described)
            and self.descriptor == other.descriptor
            and self.value == other.value
        )

    # Its value may be a list or a map.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Described({self.descriptor!r}, {self.value!r})"


@final
class Array:
    """Values of one type (1.6.24).

    Args:
        type_: the Python type of the items, as in the table above; `type(None)` for null.
        items: the values; where the array is one of described values, without the descriptor.
        descriptor: what describes each item, if anything does.
    """

    __slots__ = ("descriptor", "items", "type_")

    def __init__(self, type_: type, items: list[Value], descriptor: Value = None) -> None:
        self.type_ = type_
        self.items = items
        self.descriptor = descriptor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Array)
            and self.type_ is other.type_
            and self.items == other.items
            and self.descriptor == other.descriptor
        )

    # Its value may be a list or a map.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Array({self.type_.__name__}, {self.items!r}, {self.descriptor!r})"
