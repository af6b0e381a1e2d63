"""What a tree is over one document: the plain meaning of the language.

A tree is turned once into functions inside each other, so that a condition that is asked of many
documents (a route, of every message) costs no look at the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from muster.language import collections
from muster.language.functions import BY_NAME, arithmetic
from muster.language.tree import (
    Arithmetic,
    Call,
    Coalesce,
    Comparison,
    Constant,
    Expression,
    Logical,
    Membership,
    Not,
    Path,
)
from muster.language.values import UNDEFINED, Value, among, compare

if TYPE_CHECKING:
    from collections.abc import Callable

Getter: TypeAlias = "Callable[[Any], Value]"
"""Takes what the paths are about, a document or a message, and gives the value."""


def getter(node: Expression, bind: Callable[[Path], Getter] = collections.bind) -> Getter:
    """Return a function that computes an expression.

    Args:
        node: the tree.
        bind: returns a function that finds a path; the standard one looks into documents.
    """
    match node:
        case Path():
            return bind(node)
        case Constant(value):
            constant = list(value) if isinstance(value, tuple) else value
            return lambda _: constant
        case Not(operand):
            return _negated(getter(operand, bind))
        case Logical(operator, operands):
            return _joined([getter(each, bind) for each in operands], operator == "OR")
        case Comparison(symbol, left, right):
            return _compared(symbol, getter(left, bind), getter(right, bind))
        case Membership(operand, elements, negated):
            found = _among(getter(operand, bind), elements)
            return _negated(found) if negated else found
        case Arithmetic(symbol, left, right):
            return _computed(symbol, getter(left, bind), getter(right, bind))
        case Call(name, arguments):
            return _called(name, [getter(each, bind) for each in arguments])
        case Coalesce(operands):
            return _first_defined([getter(each, bind) for each in operands])


def predicate(
    node: Expression, bind: Callable[[Path], Getter] = collections.bind
) -> Callable[[Any], bool]:
    """Return a function that tells whether a condition holds: whether it is exactly true."""
    value = getter(node, bind)
    return lambda document: value(document) is True


def evaluate(node: Expression, document: dict[str, Any]) -> Value:
    """Return the value of an expression over a document."""
    return getter(node)(document)


def matches(node: Expression, document: dict[str, Any]) -> bool:
    """Tell whether a condition holds for a document."""
    return getter(node)(document) is True


def _negated(operand: Getter) -> Getter:
    def negated(document: Any) -> Value:
        value = operand(document)
        if value is True:
            return False
        return True if value is False else UNDEFINED

    return negated


def _joined(operands: list[Getter], deciding: bool) -> Getter:  # noqa: FBT001 - OR or AND
    def joined(document: Any) -> Value:
        result: Value = not deciding
        for operand in operands:
            value = operand(document)
            if value is deciding:
                return deciding
            if value is not (not deciding):
                result = UNDEFINED
        return result

    return joined


def _compared(symbol: str, left: Getter, right: Getter) -> Getter:
    return lambda document: compare(symbol, left(document), right(document))


def _among(operand: Getter, elements: tuple[Value, ...]) -> Getter:
    return lambda document: among(operand(document), elements)


def _computed(symbol: str, left: Getter, right: Getter) -> Getter:
    return lambda document: arithmetic(symbol, left(document), right(document))


def _first_defined(operands: list[Getter]) -> Getter:
    def first_defined(document: Any) -> Value:
        for operand in operands:
            value = operand(document)
            if value is not UNDEFINED:
                return value
        return UNDEFINED

    return first_defined


def _called(name: str, arguments: list[Getter]) -> Getter:
    call = BY_NAME[name].call
    return lambda document: call([argument(document) for argument in arguments])
