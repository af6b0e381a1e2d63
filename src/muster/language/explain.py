"""Why a condition holds for a document or does not: which part decided, and what was found.

The usual surprise is a value of another kind than the condition compares with (a tag `"true"`, the
condition `tags.on = true`): the sentence of a reason says so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from muster.language import collections
from muster.language.evaluate import getter
from muster.language.text import text
from muster.language.tree import (
    Call,
    Comparison,
    Constant,
    Expression,
    Logical,
    Membership,
    Not,
    Path,
    walk,
)
from muster.language.values import PRIMITIVE, UNDEFINED, Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.language.evaluate import Getter

_MAX_SHOWN: Final = 60
_ARTICLES: Final = {Kind.OBJECT: "an", Kind.ARRAY: "an"}


class Found(Struct, frozen=True):
    """What stands at the end of a path.

    Attributes:
        path: as it is written.
        kind: what it is.
        value: its value; `None` too when it is undefined.
    """

    path: str
    kind: Kind
    value: Any


class Reason(Struct, frozen=True):
    """A part of a condition that decided.

    Attributes:
        condition: the part, as it is written.
        outcome: whether it is true, false, or `None` for undefined.
        found: every path in it.
        sentence: all of that for people.
    """

    condition: str
    outcome: bool | None
    found: tuple[Found, ...]
    sentence: str


def why(
    node: Expression,
    document: Any,
    bind: Callable[[Path], Getter] = collections.bind,
) -> tuple[bool, list[Reason]]:
    """Tell whether a condition holds, and the parts because of which it does or does not.

    Args:
        node: the condition.
        document: what it is asked of.
        bind: as for `evaluate.getter`.
    """
    reasons: list[Reason] = []
    outcome = getter(node, bind)(document)
    pending: list[tuple[Expression, bool]] = [(node, True)]
    while pending:
        part, wanted = pending.pop()
        met = getter(part, bind)(document) is wanted
        if isinstance(part, Not):
            pending.append((part.operand, not wanted))
        elif isinstance(part, Logical):
            # What is met is so by the operands that are, what is not by those that are not.
            pending += [
                (operand, wanted)
                for operand in reversed(part.operands)
                if (getter(operand, bind)(document) is wanted) is met
            ]
        else:
            reasons.append(_reason(part, document, bind))
    return outcome is True, reasons


def _reason(node: Expression, document: Any, bind: Callable[[Path], Getter]) -> Reason:
    value = getter(node, bind)(document)
    outcome = value if isinstance(value, bool) else None
    found = tuple(
        Found(text(path), kind_of(value), None if value is UNDEFINED else value)
        for path in _paths_in_order(node)
        for value in (bind(path)(document),)
    )
    condition = text(node)
    verdict = {True: "is true", False: "is false", None: "can be neither true nor false"}[outcome]
    told = [_told(each) for each in found]
    mismatch = _mismatch(node, found) if outcome is None else ""
    sentence = f"{condition} {verdict}"
    if told or mismatch:
        sentence += f": {' and '.join(told)}{mismatch}"
    return Reason(condition, outcome, found, f"{sentence}.")


def _paths_in_order(node: Expression) -> list[Path]:
    found = [each for each, _ in walk(node) if isinstance(each, Path)]
    return list(dict.fromkeys(reversed(found)))


def _told(found: Found) -> str:
    if found.kind is Kind.UNDEFINED:
        return f"{found.path} is not there{_hyphen(found.path)}"
    if found.kind is Kind.NULL:
        return f"{found.path} is null"
    shown = json.dumps(found.value, ensure_ascii=False)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}…"
    return f"{found.path} is {_ARTICLES.get(found.kind, 'the')} {found.kind} {shown}"


def _hyphen(path: str) -> str:
    """Say what may have been meant by a name that is not there."""
    return " (one name; to subtract takes spaces around the hyphen)" if "-" in path else ""


def _mismatch(node: Expression, found: tuple[Found, ...]) -> str:
    """Say what the condition would need, when a value of another kind is there."""
    there = [each for each in found if each.kind is not Kind.UNDEFINED]
    if len(there) != 1 or len(found) != 1:
        return ""
    match node:
        case Comparison(_, Path(), Constant(value)) | Comparison(_, Constant(value), Path()):
            wanted = {kind_of(value)}
        case Membership(Path(), elements):
            wanted = {kind_of(element) for element in elements}
        case Path():
            wanted = {Kind.BOOLEAN}
        case Call():
            return ", which this function does not take"
        case _:
            return ""
    kinds = " or ".join(sorted(wanted & PRIMITIVE))
    return f", not a {kinds}" if kinds and there[0].kind not in wanted else ""
