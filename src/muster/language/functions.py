"""The functions of the language: one row each, for queries and routes alike.

A function of undefined, or of a value of another kind than it takes, is undefined. Letters fold
in ASCII only, as every database does it; strings are counted in code points.
"""

from __future__ import annotations

import math
import re
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.language.values import PRIMITIVE, UNDEFINED, Kind, Value, among, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_UPPER: Final = str.maketrans(ascii_lowercase, ascii_uppercase)
_NUMBER: Final = re.compile(
    r"[ \t\n\r]*(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)[ \t\n\r]*"
)

_STRING: Final = frozenset({Kind.STRING})
_NUMERIC: Final = frozenset({Kind.NUMBER})
_ARRAY: Final = frozenset({Kind.ARRAY})
_ANY: Final = frozenset(Kind)


class Function(NamedTuple):
    """One function.

    Attributes:
        name: in capitals, as messages show it.
        takes: the kinds each argument may be of; with another one the result is undefined.
        gives: the kind of the result, when it is defined.
        evaluate: computes the result from arguments of the right kinds.
        sqlite: writes it in SQLite's dialect, from SQL that gives the arguments or NULL. `None`
            for what the compiler knows by itself: tests of kinds, ARRAY_CONTAINS.
        least: how many arguments must be given; the others are optional.
        endless: whether the last argument may be repeated.
        tests: for a test of kinds: those for which it is true.
    """

    name: str
    takes: tuple[frozenset[Kind], ...]
    gives: Kind
    evaluate: Callable[..., Value]
    sqlite: Callable[..., str] | None = None
    least: int = 1
    endless: bool = False
    tests: frozenset[Kind] = frozenset()

    def accepts(self, count: int) -> bool:
        """Tell whether it can be called with so many arguments."""
        return self.least <= count and (self.endless or count <= len(self.takes))

    def takes_at(self, index: int) -> frozenset[Kind]:
        """Return the kinds the argument of this index may be of."""
        return self.takes[min(index, len(self.takes) - 1)]

    def call(self, arguments: list[Value]) -> Value:
        """Return the result."""
        for index, argument in enumerate(arguments):
            if kind_of(argument) not in self.takes_at(index):
                return UNDEFINED
        result = self.evaluate(*arguments)
        return UNDEFINED if isinstance(result, float) and math.isnan(result) else result

    @property
    def signature(self) -> str:
        """How it is called, for messages."""
        names = [_SPOKEN[kinds] for kinds in self.takes]
        shown = ", ".join(names[: self.least])
        optional = "".join(f"[, {name}]" for name in names[self.least :])
        return f"{self.name}({shown}{optional}{', …' if self.endless else ''})"


_SPOKEN: Final = {
    _STRING: "string",
    _NUMERIC: "number",
    _ARRAY: "array",
    _ANY: "value",
    PRIMITIVE: "value",
}


def _test(name: str, *kinds: Kind) -> Function:
    tested = frozenset(kinds)
    return Function(
        name, (_ANY,), Kind.BOOLEAN, lambda value: kind_of(value) in tested, tests=tested
    )


def _text(
    name: str,
    gives: Kind,
    evaluate: Callable[..., Value],
    sqlite: Callable[..., str],
    *,
    count: int,
) -> Function:
    return Function(name, (_STRING,) * count, gives, evaluate, sqlite, least=count)


def _math(
    name: str, evaluate: Callable[..., Value], sqlite: Callable[..., str], *, count: int = 1
) -> Function:
    return Function(name, (_NUMERIC,) * count, Kind.NUMBER, evaluate, sqlite, least=count)


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 else math.inf
    except ValueError:
        return math.inf if base == 0 else math.nan


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _whole(rounded: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: value if math.isinf(value) else float(rounded(value))


def _as_number(text: str) -> Value:
    match = _NUMBER.fullmatch(text)
    return float(match[1]) if match else UNDEFINED


def _substring(text: str, start: float, length: float = math.inf) -> Value:
    if start < 0 or length < 0 or start % 1 or (math.isfinite(length) and length % 1):
        return UNDEFINED
    return text[int(start) :] if math.isinf(length) else text[int(start) : int(start + length)]


def _substring_sqlite(text: str, start: str, length: str = "") -> str:
    check = f"{start} >= 0 AND {start} = CAST({start} AS INTEGER)"
    if not length:
        return f"CASE WHEN {check} THEN substr({text}, {start} + 1) END"
    check = f"{check} AND {length} >= 0 AND {length} = CAST({length} AS INTEGER)"
    return f"CASE WHEN {check} THEN substr({text}, {start} + 1, {length}) END"


def _contains(array: list[Value], value: Value) -> Value:
    return among(value, array) is True


TABLE: Final = (
    Function(
        "IS_DEFINED",
        (_ANY,),
        Kind.BOOLEAN,
        lambda value: value is not UNDEFINED,
        tests=_ANY - {Kind.UNDEFINED},
    ),
    _test("IS_NULL", Kind.NULL),
    _test("IS_BOOL", Kind.BOOLEAN),
    _test("IS_NUMBER", Kind.NUMBER),
    _test("IS_STRING", Kind.STRING),
    _test("IS_OBJECT", Kind.OBJECT),
    _test("IS_ARRAY", Kind.ARRAY),
    _test("IS_PRIMITIVE", *PRIMITIVE),
    Function("ARRAY_CONTAINS", (_ARRAY, PRIMITIVE), Kind.BOOLEAN, _contains, least=2),
    _text(
        "STARTSWITH",
        Kind.BOOLEAN,
        str.startswith,
        lambda text, start: f"substr({text}, 1, length({start})) = {start}",
        count=2,
    ),
    _text(
        "ENDSWITH",
        Kind.BOOLEAN,
        str.endswith,
        lambda text, end: (
            f"({end} = '' AND {text} = {text} OR substr({text}, -length({end})) = {end})"
        ),
        count=2,
    ),
    _text(
        "CONTAINS",
        Kind.BOOLEAN,
        lambda text, part: part in text,
        lambda text, part: f"instr({text}, {part}) > 0",
        count=2,
    ),
    _text(
        "LOWER",
        Kind.STRING,
        lambda text: text.translate(_LOWER),
        lambda text: f"lower({text})",
        count=1,
    ),
    _text(
        "UPPER",
        Kind.STRING,
        lambda text: text.translate(_UPPER),
        lambda text: f"upper({text})",
        count=1,
    ),
    _text("LENGTH", Kind.NUMBER, len, lambda text: f"length({text})", count=1),
    _text(
        "INDEX_OF",
        Kind.NUMBER,
        str.find,
        lambda text, part: f"instr({text}, {part}) - 1",
        count=2,
    ),
    Function(
        "CONCAT",
        (_STRING, _STRING),
        Kind.STRING,
        lambda *texts: "".join(texts),
        lambda *texts: " || ".join(texts),
        least=2,
        endless=True,
    ),
    Function(
        "SUBSTRING",
        (_STRING, _NUMERIC, _NUMERIC),
        Kind.STRING,
        _substring,
        _substring_sqlite,
        least=2,
    ),
    _text(
        "AS_NUMBER",
        Kind.NUMBER,
        _as_number,
        lambda text: (
            f"CASE WHEN json_valid({text}) THEN CASE WHEN json_type({text}) IN "
            f"('integer', 'real') THEN CAST(json_extract({text}, '$') AS REAL) END END"
        ),
        count=1,
    ),
    _math("ABS", abs, lambda value: f"abs({value})"),
    _math("CEILING", _whole(math.ceil), lambda value: f"ceiling({value})"),
    _math("FLOOR", _whole(math.floor), lambda value: f"floor({value})"),
    _math("SIGN", lambda value: (value > 0) - (value < 0), lambda value: f"sign({value})"),
    _math("SQUARE", lambda value: _power(value, 2), lambda value: f"power({value}, 2)"),
    _math("POWER", _power, lambda base, exponent: f"power({base}, {exponent})", count=2),
    _math("EXP", _exp, lambda value: f"exp({value})"),
    _math(
        "SQRT",
        lambda value: math.sqrt(value) if value >= 0 else math.nan,
        lambda value: f"sqrt({value})",
    ),
)
"""Every function. Documented for twins is IS_DEFINED only, clients send others (5.1); the rest is
from routes (section 7)."""

_OTHER_NAMES: Final = {"STARTS_WITH": "STARTSWITH", "ENDS_WITH": "ENDSWITH"}

BY_NAME: Final[dict[str, Function]] = {
    **{row.name: row for row in TABLE},
    **{other: row for other, name in _OTHER_NAMES.items() for row in TABLE if row.name == name},
}
"""By every name it goes by, in capitals."""


def arithmetic(symbol: str, left: Value, right: Value) -> Value:
    """Compute in floating point, as JSON's numbers are; undefined when it cannot be."""
    if kind_of(left) is not Kind.NUMBER or kind_of(right) is not Kind.NUMBER:
        return UNDEFINED
    result = _ARITHMETIC[symbol](float(left), float(right))
    return UNDEFINED if math.isnan(result) else result


def _divided(left: float, right: float) -> float:
    return left / right if right else math.nan


def _remainder(left: float, right: float) -> float:
    return math.fmod(left, right) if right and math.isfinite(left) else math.nan


_ARITHMETIC: Final[dict[str, Callable[[float, float], float]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divided,
    "%": _remainder,
}
