"""Trees to text: what a tree would be written as. Reading it gives the same tree again."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from muster.language.parser import RESERVED
from muster.language.tree import (
    Aggregate,
    Arithmetic,
    Call,
    Coalesce,
    Comparison,
    Constant,
    Expression,
    Item,
    Logical,
    Membership,
    Not,
    Path,
    Query,
)
from muster.language.values import UNDEFINED

_BARE_FIRST: Final = re.compile(r"[^\W\d][\w$]*|\$[\w$]+(?:-[^\W\d]\w*)*")
_BARE: Final = re.compile(r"[\w$]+")
_ESCAPES: Final = {"'": "\\'", "\\": "\\\\"}


def query_text(query: Query) -> str:
    """Write a query."""
    parts = ["SELECT"]
    if query.top is not None:
        parts.append(f"TOP {query.top}")
    parts.append(", ".join(map(_item, query.items)) or "*")
    parts.append(f"FROM {query.collection.name}")
    if query.condition != Constant(True):
        parts.append(f"WHERE {text(query.condition)}")
    if query.group_by:
        parts.append("GROUP BY " + ", ".join(map(text, query.group_by)))
    return " ".join(parts)


def text(node: Expression) -> str:
    """Write an expression."""
    match node:
        case Constant(tuple() as elements):
            return _array(elements)
        case Constant(value):
            return _constant(value)
        case Path(names):
            return _path(names)
        case Not(operand):
            return f"NOT {_operand(operand)}"
        case Logical(operator, operands):
            return f" {operator} ".join(map(_operand, operands))
        case Comparison(operator, left, right) | Arithmetic(operator, left, right):
            return f"{_operand(left)} {operator} {_operand(right)}"
        case Membership(operand, elements, negated):
            return f"{_operand(operand)} {'NIN' if negated else 'IN'} {_array(elements)}"
        case Call(name, arguments):
            return f"{name}({', '.join(map(text, arguments))})"
        case Coalesce(operands):
            return " ?? ".join(map(_operand, operands))


def _operand(node: Expression) -> str:
    plain = isinstance(node, Constant | Path | Call)
    return text(node) if plain else f"({text(node)})"


def _item(item: Item) -> str:
    if isinstance(item.source, Aggregate):
        path = item.source.path
        source = f"{item.source.function}({text(path) if path else ''})"
        name = item.source.function.lower()
    else:
        source, name = text(item.source), str(item.source.names[-1])
    return source if item.name == name else f"{source} AS {_path((item.name,))}"


def _path(names: tuple[str | int, ...]) -> str:
    parts: list[str] = []
    for name in names:
        if isinstance(name, int):
            parts.append(f"[{name}]")
            continue
        bare = _BARE if parts else _BARE_FIRST
        plain = bare.fullmatch(name) and (parts or name.upper() not in RESERVED)
        parts.append(("." if parts else "") + (name if plain else f"[[{name}]]"))
    return "".join(parts)


def _array(elements: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(_constant, elements))}]"


def _constant(value: Any) -> str:
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, str):
        return "'" + "".join(_ESCAPES.get(each, each) for each in value) + "'"
    return json.dumps(value)
