"""Composite types: values with named fields, written as a described list.

A composite is written to its full length with explicit nulls, its descriptor as smallulong, its
list never without a body: the decoder of azure-eventhub understands nothing else (hub-service.md
0.3). It is read however the standard allows: cut off after the last field that is not null, with a
descriptor of any form.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from muster.wire.amqp import encoder
from muster.wire.amqp.errors import INVALID_FIELD, LocalProtocolError, RemoteProtocolError
from muster.wire.amqp.types import Array, Described, Symbol, Timestamp, Value

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind:
    """The type of a field.

    Args:
        read: takes what was decoded, not null, and returns what the field holds in Python. Raises
            `TypeError` for what is not of the type.
        write: returns what the field holds, not None, in bytes.
    """

    __slots__ = ("read", "write")

    def __init__(
        self, read: Callable[[Value], Any], write: Callable[[Any], bytes] = encoder.encode
    ) -> None:
        self.read = read
        self.write = write


class Field:
    """One field of a composite.

    Args:
        name: the attribute that holds it. What null stands for is that attribute's default.
        kind: its type.
        required: whether null is an error.
    """

    __slots__ = ("kind", "name", "required")

    def __init__(self, name: str, kind: Kind, *, required: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.required = required


class Layout:
    """How a composite is written.

    Args:
        code: its numeric descriptor, below 256.
        name: its symbolic descriptor.
        make: the class; takes the fields by keyword.
        fields: in the order of the standard.
    """

    __slots__ = ("_empty", "code", "fields", "head", "make", "name")

    def __init__(self, code: int, name: str, make: Callable[..., Any], *fields: Field) -> None:
        self.code = code
        self.name = name
        self.make = make
        self.fields = fields
        self.head = bytes((0, 0x53, code))
        self._empty = {field.name: None for field in fields if field.required}

    def from_list(self, values: list[Value]) -> Any:
        """Return the composite with these fields.

        Raises:
            RemoteProtocolError: a field is missing or of another type, or there are too many.
        """
        fields = self.fields
        if len(values) > len(fields):
            self._fail("has too many fields")
        composite = self.make(**self._empty)
        for field, value in zip(fields, values, strict=False):
            if value is not None:
                try:
                    setattr(composite, field.name, field.kind.read(value))
                except (TypeError, ValueError):
                    self._fail(f"has a wrong {field.name}")
        for name in self._empty:
            if getattr(composite, name) is None:
                self._fail(f"has no {name}")
        return composite

    def from_value(self, value: Value) -> Any:
        """Return the composite that a decoded value is.

        Raises:
            TypeError: it is another one, or none.
            RemoteProtocolError: as `from_list`.
        """
        if (
            not isinstance(value, Described)
            or value.descriptor not in {self.code, self.name}
            or not isinstance(value.value, list)
        ):
            raise TypeError
        return self.from_list(value.value)

    def encode(self, composite: object) -> bytes:
        """Return a composite in bytes.

        Raises:
            LocalProtocolError: a field has a value that its type does not allow.
        """
        parts = []
        for field in self.fields:
            value = getattr(composite, field.name)
            if value is None:
                if field.required:
                    raise LocalProtocolError(f"{self.name} has no {field.name}")
                parts.append(encoder.NULL)
            else:
                parts.append(field.kind.write(value))
        return self.head + encoder.encode_list(parts)

    def _fail(self, what: str) -> NoReturn:
        raise RemoteProtocolError(f"{self.name} {what}", INVALID_FIELD)


def whole(maximum: int, write: Callable[[int], bytes]) -> Kind:
    """Return the kind of whole numbers from 0 to `maximum`; the width they came in is forgiven."""

    def read(value: Value) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise TypeError
        return int(value)

    return Kind(read, write)


def _boolean(value: Value) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _binary(value: Value) -> bytes:
    if type(value) is not bytes:
        raise TypeError
    return value


def _map(value: Value) -> dict[Value, Value]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _symbols(value: Value) -> list[str]:
    """Read a field that may hold one symbol or many (1.4); what is sent as strings is forgiven."""
    items = value.items if isinstance(value, Array) else value
    return [_text(item) for item in (items if isinstance(items, list) else [items])]


def _write_symbols(value: list[str]) -> bytes:
    return encoder.encode(Array(Symbol, [Symbol(item) for item in value]))


def _milliseconds(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return int(value)


def _write_small(code: int, size: int) -> Callable[[int], bytes]:
    head = bytes((code,))
    return lambda value: head + value.to_bytes(size)


ANY: Final = Kind(lambda value: value)
BOOLEAN: Final = Kind(_boolean)
UBYTE: Final = whole(0xFF, _write_small(0x50, 1))
USHORT: Final = whole(0xFFFF, _write_small(0x60, 2))
UINT: Final = whole(0xFFFF_FFFF, encoder.encode_uint)
ULONG: Final = whole(0xFFFF_FFFF_FFFF_FFFF, encoder.encode_ulong)
TIMESTAMP: Final = Kind(_milliseconds, lambda value: encoder.encode(Timestamp(value)))
STRING: Final = Kind(_text, encoder.encode_string)
SYMBOL: Final = Kind(_text, encoder.encode_symbol)
SYMBOLS: Final = Kind(_symbols, _write_symbols)
BINARY: Final = Kind(_binary, encoder.encode_binary)
MAP: Final = Kind(_map)


def composite(layout: Callable[[], Layout]) -> Kind:
    """Return the kind of fields that hold one certain composite."""
    return Kind(lambda value: layout().from_value(value), lambda value: layout().encode(value))
