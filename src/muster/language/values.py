"""Values of the language: those of JSON, and `UNDEFINED` for what is not there.

Only two values of the same primitive kind can be compared; anything else is undefined, and a
condition holds only when it is exactly true (hub-service.md 5.1). So `tags.on = true` neither
holds nor fails for the text `"true"`, and its NOT does not hold either.
"""

from __future__ import annotations

import enum
import operator
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


class Undefined(enum.Enum):
    """The type of `UNDEFINED`."""

    UNDEFINED = "undefined"

    def __repr__(self) -> str:
        return "UNDEFINED"


UNDEFINED: Final = Undefined.UNDEFINED

Value: TypeAlias = Any
"""A decoded JSON value, or `UNDEFINED`."""


class Kind(enum.StrEnum):
    """What a value is; the text is how people are told."""

    UNDEFINED = "undefined"
    NULL = "null"
    BOOLEAN = "boolean"
    NUMBER = "number"
    STRING = "string"
    OBJECT = "object"
    ARRAY = "array"


PRIMITIVE: Final = frozenset({Kind.NULL, Kind.BOOLEAN, Kind.NUMBER, Kind.STRING})
"""Kinds that can be compared."""

_KINDS: Final[dict[type, Kind]] = {
    Undefined: Kind.UNDEFINED,
    NoneType: Kind.NULL,
    bool: Kind.BOOLEAN,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    str: Kind.STRING,
    dict: Kind.OBJECT,
    list: Kind.ARRAY,
}

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

COMPLEMENT: Final = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
"""The comparison that holds when another one fails, both being defined."""

HOLDS_FOR_NULL: Final = frozenset({"=", "<=", ">="})
"""Comparisons that hold between two nulls."""


def kind_of(value: Value) -> Kind:
    """Return what a value is."""
    return _KINDS[type(value)]


def compare(symbol: str, left: Value, right: Value) -> bool | Undefined:
    """Compare two values; `UNDEFINED` when they cannot be compared.

    Args:
        symbol: a key of `COMPLEMENT`.
        left: what stands before it.
        right: what stands behind it.
    """
    kind = _KINDS[type(left)]
    if kind is not _KINDS[type(right)] or kind not in PRIMITIVE:
        return UNDEFINED
    if kind is Kind.NULL:
        return symbol in HOLDS_FOR_NULL
    return _OPERATORS[symbol](left, right)


def among(value: Value, elements: tuple[Value, ...] | list[Value]) -> bool | Undefined:
    """Tell whether a value is one of several; `UNDEFINED` when it can be compared with none."""
    kind = _KINDS[type(value)]
    if kind not in PRIMITIVE:
        return UNDEFINED
    comparable = [element for element in elements if _KINDS[type(element)] is kind]
    return value in comparable if comparable else UNDEFINED
