"""The tree that texts of the language are parsed to. Values: immutable, equal when they look alike.

Positions in the text are not kept: whatever can be wrong with a text is found while parsing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct

from muster.language.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.language.collections import Collection


class Constant(Struct, frozen=True):
    """A value that stands in the text; arrays are tuples of values."""

    value: Value


class Path(Struct, frozen=True):
    """Where a value is looked for: names, and numbers for elements of arrays."""

    names: tuple[str | int, ...]


class Not(Struct, frozen=True):
    """`NOT operand`."""

    operand: Expression


class Logical(Struct, frozen=True):
    """Two or more operands joined by the same `AND` or `OR`."""

    operator: Literal["AND", "OR"]
    operands: tuple[Expression, ...]


class Comparison(Struct, frozen=True):
    """`left operator right`, the operator being `=`, `!=`, `<`, `<=`, `>` or `>=`."""

    operator: str
    left: Expression
    right: Expression


class Membership(Struct, frozen=True):
    """`operand IN [elements]`, or `NIN` when negated."""

    operand: Expression
    elements: tuple[Value, ...]
    negated: bool


class Arithmetic(Struct, frozen=True):
    """`left operator right`, the operator being `+`, `-`, `*`, `/` or `%`."""

    operator: str
    left: Expression
    right: Expression


class Call(Struct, frozen=True):
    """A function of `functions.BY_NAME`, by its own name, with as many arguments as it takes."""

    name: str
    arguments: tuple[Expression, ...]


class Coalesce(Struct, frozen=True):
    """Two or more operands joined by `??`: the first that is defined. Of routes only."""

    operands: tuple[Expression, ...]


Expression: TypeAlias = (
    Constant | Path | Not | Logical | Comparison | Membership | Arithmetic | Call | Coalesce
)
"""Anything that has a value; a condition when it is asked whether that value is exactly true."""

TRUE: Final = Constant(True)
"""The condition that always holds."""


class Aggregate(Struct, frozen=True):
    """`COUNT()`, or `AVG`, `SUM`, `MIN` or `MAX` of a path."""

    function: str
    path: Path | None


class Item(Struct, frozen=True):
    """One element of a SELECT list.

    Attributes:
        source: what is selected.
        name: of the member in the result: the alias, or else the last name of the path.
    """

    source: Path | Aggregate
    name: str


class Query(Struct, frozen=True):
    """A whole query.

    Attributes:
        collection: what it is asked of.
        items: the SELECT list; empty for `*`.
        top: how many results at most, `None` for all.
        condition: `TRUE` when there is no WHERE.
        group_by: paths, none without GROUP BY.
    """

    collection: Collection
    items: tuple[Item, ...]
    top: int | None
    condition: Expression
    group_by: tuple[Path, ...]

    @property
    def aggregates(self) -> bool:
        """Whether results are made of many documents each."""
        return bool(self.group_by) or any(isinstance(item.source, Aggregate) for item in self.items)


def children(node: Expression) -> tuple[Expression, ...]:
    """Return the expressions a node is made of."""
    match node:
        case Not(operand) | Membership(operand):
            return (operand,)
        case Logical(_, operands) | Call(_, operands) | Coalesce(operands):
            return operands
        case Comparison(_, left, right) | Arithmetic(_, left, right):
            return (left, right)
    return ()


def walk(node: Expression) -> Iterator[tuple[Expression, int]]:
    """Yield every node of a tree with its depth, beginning with the root at 1."""
    pending = [(node, 1)]
    while pending:
        found, depth = pending.pop()
        yield found, depth
        pending += ((child, depth + 1) for child in children(found))


def paths(node: Expression) -> set[Path]:
    """Return every path that occurs in a tree."""
    return {found for found, _ in walk(node) if isinstance(found, Path)}
