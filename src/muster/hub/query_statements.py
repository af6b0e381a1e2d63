"""The statements of queries over twins, put together from conditions and paths as SQL.

Matches are read in the order of the table, after the number of a row: an order that no change of a
twin disturbs and that every index gives for equal values, so that a page needs no sorting and a
continuation is one number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import msgspec

from muster.errors import InvalidArgumentError
from muster.hub.query_schema import DEVICES, JOINS, MODULES, VOLATILE
from muster.language import collections
from muster.language.sql import compile_condition, compile_path
from muster.language.tree import Aggregate, Path, paths
from muster.store.engine import Query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muster.language.collections import Collection
    from muster.language.sql import Selected
    from muster.language.tree import Expression, Item
    from muster.store.engine import Row

_UNIQUE: Final = frozenset({("t", "device_id"), ("d", "parent_scope")})
"""Columns with an index of their own, which finds few rows."""

_LIVELY: Final = "lastActivityTime"
_AGGREGATES: Final = {
    "COUNT": "COUNT(*)",
    "AVG": "AVG({0.number})",
    "SUM": "CASE WHEN COUNT({0.number}) > 0 THEN TOTAL({0.number}) END",
    "MIN": "MIN({0.ordered})",
    "MAX": "MAX({0.ordered})",
}
_MAX_WHOLE: Final = 2.0**53


class Prepared(NamedTuple):
    """A statement with its parameters, those of pages aside."""

    query: Query
    params: dict[str, Any]


@final
class TwinSource:
    """The twins of a hub that a condition chooses.

    Args:
        hub: the hub's number.
        collection: `DEVICES` or `MODULES`.
        condition: chooses.
        selected: paths that statements will also mention.

    Attributes:
        lookups: equalities an index can answer.
        modules: whether they are of modules or of devices.
        volatile: whether the answer depends on who is connected.
        lively: whether it depends on when somebody was last heard of.
        indexed: whether an index answers some of the equalities.
    """

    def __init__(
        self,
        hub: int,
        collection: Collection,
        condition: Expression,
        selected: Sequence[Path] = (),
    ) -> None:
        self.modules = collection is collections.MODULES
        self._schema = MODULES if self.modules else DEVICES
        compiled = compile_condition(condition, self._schema)
        self._where = compiled.sql
        self._params = {**compiled.params, "hub": hub}
        self._selected = {path: compile_path(path, self._schema) for path in selected}
        self._tables = compiled.tables.union(*(each.tables for each in self._selected.values()))
        self.lookups = compiled.lookups
        self.volatile = bool(self._tables & VOLATILE)
        self.lively = any(
            path.names[0] == _LIVELY for path in paths(condition) | self._selected.keys()
        )
        self.indexed = False

    @property
    def selectable(self) -> bool:
        """Whether all selected paths can be read without the rest of the twin."""
        return all(each.whole for each in self._selected.values())

    @property
    def found_directly(self) -> bool:
        """Whether the condition names few rows by a column that is indexed."""
        return any((each.table, each.expression) in _UNIQUE for each in self.lookups)

    def rows(self) -> Prepared:
        """Return the statement for the numbers of rows and the IDs of a page."""
        return self._page("t.rowid, t.device_id, t.module_id", "rows")

    def values(self, items: Sequence[Item]) -> Prepared:
        """Return the statement for the selected values of a page; see `row_of`."""
        columns = (
            f"{selected.type}, {selected.value}"
            for selected in (self._selected[_path(item)] for item in items)
        )
        return self._page(", ".join(("t.rowid", *columns)), "values")

    def count(self) -> Prepared:
        """Return the statement that counts."""
        return self._prepared(f"SELECT COUNT(*) {self._from(ordered=False)}", "count")

    def groups(self, items: Sequence[Item], group_by: Sequence[Path]) -> Prepared:
        """Return the statement for groups; see `row_of`.

        Raises:
            InvalidArgumentError: a path leads to an object that has no single value; code
                `invalid-query`.
        """
        if not self.selectable:
            raise InvalidArgumentError(
                "Objects of the service cannot be grouped or computed.", code="invalid-query"
            )
        columns: list[str] = []
        for item in items:
            if isinstance(item.source, Aggregate):
                path = item.source.path
                selected = self._selected[path] if path else None
                columns.append(f"'integer', {_AGGREGATES[item.source.function].format(selected)}")
            else:
                selected = self._selected[item.source]
                columns.append(f"{_sort(selected)}, {selected.value}")
        keys = [
            key
            for path in group_by
            for key in (_sort(self._selected[path]), self._selected[path].value)
        ]
        grouped = f" GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)}" if keys else ""
        return self._prepared(
            f"SELECT {', '.join(columns)} {self._from(ordered=False)}{grouped} "
            "LIMIT :limit OFFSET :after",
            "groups",
        )

    def _page(self, columns: str, name: str) -> Prepared:
        return self._prepared(
            f"SELECT {columns} {self._from(ordered=True)} "
            "AND t.rowid > :after ORDER BY t.rowid LIMIT :limit",
            name,
        )

    def _from(self, *, ordered: bool) -> str:
        hint, pinned = "", ""
        if not self.found_directly:
            pinned = "CROSS "
            if not self.indexed and (ordered or "t" in self._tables):
                # The table as it lies; by an index every row would have to be looked up.
                hint = "NOT INDEXED "
        joins = " ".join(
            f"{'' if join.startswith('LEFT') else pinned}{join}"
            for alias, join in JOINS.items()
            if alias in self._tables
        )
        sort = "<>" if self.modules else "="
        return (
            f"FROM twins t {hint}{joins} "
            f"WHERE t.hub = :hub AND t.module_id {sort} '' AND {self._where}"
        )

    def _prepared(self, sql: str, name: str) -> Prepared:
        return Prepared(Query(f"twins.{name}", sql, scan=True), self._params)


def selected_paths(items: Iterable[Item], group_by: Iterable[Path] = ()) -> list[Path]:
    """Return all paths of a SELECT list and a GROUP BY."""
    found = [
        item.source.path if isinstance(item.source, Aggregate) else item.source for item in items
    ]
    return [path for path in (*found, *group_by) if path is not None]


def row_of(items: Sequence[Item], row: Row) -> dict[str, Any]:
    """Return a result from the columns of its items, two each: type and value."""
    result: dict[str, Any] = {}
    for place, item in enumerate(items):
        kind, value = row[2 * place : 2 * place + 2]
        if kind is None or (value is None and kind != "null"):
            continue
        result[item.name] = _shown(str(kind), value)
    return result


def _shown(kind: str, value: Any) -> Any:
    if kind in {"true", "false"}:
        return kind == "true"
    if kind in {"object", "array"}:
        return msgspec.Raw(value.encode())
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_WHOLE:
        return int(value)
    return value


def _path(item: Item) -> Path:
    if isinstance(item.source, Aggregate):
        raise TypeError("an aggregate has no value of its own")
    return item.source


def _sort(selected: Selected) -> str:
    """Return SQL for a type under which equal numbers are one, whole or not."""
    return f"CASE {selected.type} WHEN 'real' THEN 'integer' ELSE {selected.type} END"
