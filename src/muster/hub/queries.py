"""Queries over the twins of devices and modules, in the words of services (hub-service.md 1.6, 5).

A page of `SELECT *` is the very twins that a GET shows. Selected members, groups and counts are
read from the columns they stand in. Nothing is kept between pages: a continuation says after which
row to go on, so that twins may change, come and go meanwhile.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

import msgspec
from msgspec import Struct

from muster.hub import device_jobs
from muster.hub.query_statements import TwinSource, row_of, selected_paths
from muster.language import collections
from muster.language.evaluate import getter
from muster.language.parser import parse_query
from muster.language.values import UNDEFINED
from muster.model import paging
from muster.model.identity import IdentityRef
from muster.model.paging import DEFAULT_PAGE, MAX_PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster.hub.connections import Connections
    from muster.hub.query_indexes import QueryIndexes
    from muster.hub.query_statements import Prepared
    from muster.hub.twins import ServiceTwin, Twins
    from muster.language.conditions import Condition
    from muster.language.tree import Expression, Item, Query
    from muster.store.engine import Engine, Row

TWIN: Final = "Twin"
DEVICE_JOB: Final = "DeviceJob"
RAW: Final = "Raw"

_POSITION: Final = re.compile(r"([0-9]{1,18})(?:/([0-9]{1,10}))?")


class Results(Struct):
    """A page of results.

    Attributes:
        rows: service twins, or objects of what was selected.
        item_type: what they are: `TWIN`, `DEVICE_JOB` or `RAW`.
        continuation: asks for the next page; `None` on the last one.
    """

    rows: Sequence[Any]
    item_type: str
    continuation: str | None = None


class Matches(NamedTuple):
    """A page of identities that a condition chooses.

    Attributes:
        refs: in the order of their creation.
        next: where the next page starts; `None` on the last one.
    """

    refs: list[IdentityRef]
    next: int | None


class _Position(NamedTuple):
    """Where a page starts, and how many results TOP leaves to give."""

    after: int
    left: int | None


@final
class Queries:
    """Answers queries.

    Args:
        engine: where twins are.
        twins: shows them.
        connections: knows who is connected.
        indexes: on paths that conditions look at.
    """

    def __init__(
        self, engine: Engine, twins: Twins, connections: Connections, indexes: QueryIndexes
    ) -> None:
        self._engine = engine
        self._twins = twins
        self._connections = connections
        self._indexes = indexes

    async def run(
        self, hub: int, text: str, size: int = DEFAULT_PAGE, continuation: str | None = None
    ) -> Results:
        """Return a page of a query's results.

        Args:
            hub: the hub's number.
            text: the query.
            size: results of a page at most.
            continuation: from the page before; `None` or empty for the first.

        Raises:
            InvalidArgumentError: codes `invalid-query`, `invalid-continuation`.
        """
        query = parse_query(text)
        position = _position(query, continuation)
        if query.collection is collections.JOBS:
            return await self._device_jobs(hub, query, position, size)
        if query.aggregates:
            return await self._groups(hub, query, position, size)
        if query.items:
            return await self._selected(hub, query, position, size)
        source = await self._source(hub, query)
        twins, token = await self._shown(hub, source, position, size)
        return Results(twins, TWIN, token)

    async def matches(
        self, hub: int, condition: Condition, after: int = 0, limit: int = MAX_PAGE
    ) -> Matches:
        """Return a page of the identities that a condition chooses.

        Args:
            hub: the hub's number.
            condition: of a deployment, a configuration or a job.
            after: `next` of the page before; 0 for the first.
            limit: identities of a page at most.
        """
        source = await self._prepare(TwinSource(hub, condition.collection, condition.expression))
        rows, more = await self._page(source.rows(), _Position(after, None), limit)
        refs = [IdentityRef(hub, *cast("tuple[str, str]", row[1:])) for row in rows]
        return Matches(refs, cast("int", rows[-1][0]) if more else None)

    async def count(self, hub: int, condition: Condition) -> int:
        """Return how many identities a condition chooses."""
        source = await self._prepare(TwinSource(hub, condition.collection, condition.expression))
        statement, params = source.count()
        ((count,),) = cast("list[tuple[int]]", await self._engine.read(statement, params))
        return count

    # -- kinds of queries ----------------------------------------------------------------------

    async def _device_jobs(self, hub: int, query: Query, position: _Position, size: int) -> Results:
        limit = size if position.left is None else min(size, position.left)
        page = await device_jobs.page(self._engine, hub, query.condition, position.after, limit)
        rows = page.rows
        more = page.next if position.left is None or position.left > limit else None
        token = None if more is None else _token(more, position, len(rows))
        return Results(rows, DEVICE_JOB, token)

    async def _groups(self, hub: int, query: Query, position: _Position, size: int) -> Results:
        selected = selected_paths(query.items, query.group_by)
        source = await self._source(hub, query, selected)
        statement = source.groups(query.items, query.group_by)
        rows, more = await self._page(statement, position, size)
        token = _token(position.after + len(rows), position, len(rows)) if more else None
        return Results([row_of(query.items, row) for row in rows], RAW, token)

    async def _selected(self, hub: int, query: Query, position: _Position, size: int) -> Results:
        source = await self._source(hub, query, selected_paths(query.items))
        if not source.selectable:
            twins, token = await self._shown(hub, source, position, size)
            project = _projection(query.items)
            return Results([project(msgspec.to_builtins(each)) for each in twins], RAW, token)
        rows, more = await self._page(source.values(query.items), position, size)
        token = _token(cast("int", rows[-1][0]), position, len(rows)) if more else None
        return Results([row_of(query.items, row[1:]) for row in rows], RAW, token)

    async def _shown(
        self, hub: int, source: TwinSource, position: _Position, size: int
    ) -> tuple[list[ServiceTwin], str | None]:
        rows, more = await self._page(source.rows(), position, size)
        numbers = [cast("int", row[0]) for row in rows]
        twins = await self._twins.at(hub, numbers, modules=source.modules)
        return twins, _token(numbers[-1], position, len(rows)) if more else None

    # -- reading -------------------------------------------------------------------------------

    async def _source(self, hub: int, query: Query, selected: Sequence[Any] = ()) -> TwinSource:
        return await self._prepare(TwinSource(hub, query.collection, query.condition, selected))

    async def _prepare(self, source: TwinSource) -> TwinSource:
        """Have everything a statement needs to be right and fast."""
        if source.volatile:
            await self._connections.write_down(activity=source.lively)
        if not source.found_directly:
            source.indexed = await self._indexes.serve(source.lookups, modules=source.modules)
        return source

    async def _page(
        self, prepared: Prepared, position: _Position, size: int
    ) -> tuple[list[Row], bool]:
        """Read a page; also tell whether there is another."""
        left = size if position.left is None else position.left
        limit = min(size, left)
        # One more than fits tells that there is another page.
        params = {**prepared.params, "after": position.after, "limit": limit + 1}
        rows = await self._engine.read(prepared.query, params)
        more = len(rows) > limit and (position.left is None or position.left > limit)
        return rows[:limit], more


def _projection(items: Sequence[Item]) -> Callable[[Any], dict[str, Any]]:
    """Return a function that selects from a whole twin."""
    getters = [(item.name, getter(cast("Expression", item.source))) for item in items]

    def project(document: Any) -> dict[str, Any]:
        found = ((name, value(document)) for name, value in getters)
        return {name: value for name, value in found if value is not UNDEFINED}

    return project


def _position(query: Query, continuation: str | None) -> _Position:
    if not continuation:
        return _Position(0, query.top)
    match = _POSITION.fullmatch(paging.key(continuation))
    if match is None or (match[2] is None) is not (query.top is None):
        raise paging.invalid_continuation()
    return _Position(int(match[1]), int(match[2]) if match[2] else None)


def _token(after: int, position: _Position, given: int) -> str:
    left = "" if position.left is None else f"/{position.left - given}"
    return paging.token(f"{after}{left}")
